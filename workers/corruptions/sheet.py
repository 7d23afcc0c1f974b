"""A contact sheet: one image under every corruption at every severity, for a person to look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from qsweep.sweeps.corruptions import SEVERITIES
from qsweep.sweeps.wholefiles import whole_file
from qsweep.workers.corruptions.libraries import library

SIDE = 96
"""Smallest side of an image on the sheet, in pixels."""
GAP, NAMES, HEAD = 6, 150, 24
INK, PAPER = (20, 20, 20), (255, 255, 255)


def write_sheet(
    clean: np.ndarray, corruptions: Sequence[str], corrupted: Callable[[str, int], np.ndarray], path: Path
) -> None:
    """Draw `clean` (uint8 (side, side, 1 or 3)) and what `corrupted` makes of it, a row a corruption, into a PNG."""
    image_library, drawing = library("PIL.Image"), library("PIL.ImageDraw")
    font = library("PIL.ImageFont").load_default(13)
    times = max(1, round(SIDE / len(clean)))
    step = len(clean) * times + GAP
    width, height = NAMES + (1 + len(SEVERITIES)) * step, HEAD + len(corruptions) * step
    sheet = image_library.new("RGB", (width, height), PAPER)
    draw = drawing.Draw(sheet)
    for column, name in enumerate(["clean", *map(str, SEVERITIES)]):
        draw.text((NAMES + column * step, 4), name, INK, font=font)
    for row, corruption in enumerate(corruptions):
        top = HEAD + row * step
        draw.text((GAP, top + step // 2 - 8), corruption.replace("_", " "), INK, font=font)
        for column, image in enumerate([clean, *(corrupted(corruption, one) for one in SEVERITIES)]):
            enlarged = np.repeat(np.repeat(image, times, axis=0), times, axis=1)
            colours = np.broadcast_to(enlarged, (*enlarged.shape[:2], 3))
            sheet.paste(image_library.fromarray(np.ascontiguousarray(colours)), (NAMES + column * step, top))
    with whole_file(path, tidy=True) as file:
        sheet.save(file, "PNG")
