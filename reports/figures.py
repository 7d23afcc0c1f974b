"""The figures of a sweep as files, in one style: the same results give the same bytes.

`step-sizes` is Figure 1 of QGen. Its Figure 2, the loss surface, is drawn in `reports.landscape`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qsweep.reports.canvas import STYLE, save
from qsweep.reports.charts.general import GENERAL
from qsweep.reports.evidence import Evidence
from qsweep.reports.formats import FileFormat, Picture
from qsweep.reports.pictures import DRAWN, draw_general, progress
from qsweep.sweeps.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_figures(
    evidence: Evidence,
    folder: Path,
    *,
    chosen: Sequence[Picture] = (),
    form: FileFormat = FileFormat.PDF,
    tell: Callable[[Path], None] | None = None,
) -> list[Path]:
    """Write the chosen figures (all of them without a choice) for which there are data; their paths.

    `tell` hears of each as it is written: several take a while. Raises InputError if there are none, or if `folder`
    can't be written.
    """
    from matplotlib import rc_context  # here, because it takes a second to import

    written: list[Path] = []
    with rc_context(STYLE):
        for picture in chosen or list(Picture):
            for name, figure in _pictures(evidence, picture):
                path = _written(figure, _free(folder / f"{name}.{form}", written), form)
                written.append(path)
                if tell is not None:
                    tell(path)
    if not written:
        what = ", ".join(chosen) if chosen else "any figure"
        raise InputError(f"nothing is done yet that {what} could show", place=evidence.title)
    return written


def _free(path: Path, written: Sequence[Path]) -> Path:
    """The path, numbered if another figure has it: two names may differ in what no name of a file shows."""
    numbered = (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2))
    return next(one for one in itertools.chain([path], numbered) if one not in written)


def _written(figure: Figure, path: Path, form: FileFormat) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return save(figure, path, form)
    except OSError as error:
        raise InputError(f"the figures can't be written: {error.strerror}", place=f"--out {path.parent}") from None


def _pictures(evidence: Evidence, picture: Picture) -> Iterator[tuple[str, Figure]]:
    """The figures of one kind by file name: one a group of models, where there are several groups."""
    if picture is Picture.PROGRESS:
        figure = progress(evidence)
        if figure is not None:
            yield picture.value, figure
        return
    if evidence.returned is not None and picture.value in GENERAL:
        for name, figure in draw_general(evidence.returned, picture.value):
            yield _joined(picture.value, name), figure
    for models in evidence.models:
        group = "" if len(evidence.models) == 1 else models.group
        for detail, figure in DRAWN[picture](evidence, models):
            yield _joined(picture.value, group, detail), figure


def _joined(*texts: str) -> str:
    """The name of a file of these texts; what has no letter and no digit is left out."""
    return "-".join(filter(None, map(_slug, texts)))


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower().replace("+", "-and-")).strip("-")
