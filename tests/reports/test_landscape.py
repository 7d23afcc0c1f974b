"""Landscapes as files: Parquet, ParaView, figures on one scale, and a page that draws itself."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest
from matplotlib import rc_context

from qsweep.reports.canvas import STYLE
from qsweep.reports.landscape.figures import Range, Scale, draw_landscapes, drawn_figures
from qsweep.reports.landscape.grid import Configuration, Grid, configurations, read_grid, write_grid
from qsweep.reports.landscape.page import render_page
from qsweep.reports.landscape.paraview import polydata
from qsweep.sweeps.landscape import BETWEEN, LINE, Landscape
from tests.reports.browser import CHROMEDRIVER, CHROMIUM, Browser, started
from tests.workers.trainings import training

PROVENANCE: dict[str, Any] = {
    "attempts": [1],
    "models": ["hash"],
    "cosine": -0.0123,
    "images": 1442,
    "full_pass": 6,
    "code": "0.1.0+0",
    "torch": "2",
    "device": "cpu",
    "host": "here",
    "seconds": 3.5,
    "finished_at": "2026-01-01T00:00:00+00:00",
}


def bowl(bits: int, *, height: float = 1.0, points: int = 9, view: str = "plane", **settings: Any) -> Grid:
    """A loss that rises with the square of the distance from the model."""
    asked = Landscape(view=view, points=points)
    axis = np.array(asked.axis)
    square = axis**2 if view != "plane" else axis[:, None] ** 2 + 2 * axis[None] ** 2
    trainings = [training(bits=bits, **settings)] + [training(bits=2)] * (view == BETWEEN)
    jobs = tuple(f"{number}{bits:031x}" for number in range(len(trainings)))
    return Grid(
        asked=asked,
        identity=asked.identity([(job, 1, str(settings)) for job in jobs]),
        jobs=jobs,
        trainings=tuple(trainings),
        loss=0.05 + height * square,
        accuracy=np.exp(-square),
        provenance=PROVENANCE | ({} if view == "plane" else {"cosine": None}),
    )


@pytest.fixture
def precisions() -> Configuration:
    """Four precisions of one configuration, of very different heights; a corner of one is not finite."""
    grids = [bowl(bits, height=height) for bits, height in ((2, 1.0), (8, 40.0), (32, 20.0), (4, 5.0))]
    grids[0].loss[0, 0] = np.nan
    (found,) = configurations(grids)
    return found


@pytest.mark.parametrize("view", ["plane", LINE, BETWEEN])
def test_what_was_written_is_read(tmp_path: Path, view: str) -> None:
    grid = bowl(4, view=view)
    grid.loss.flat[1] = np.nan
    write_grid(grid, tmp_path / "new" / "grid.parquet")
    found = read_grid(tmp_path / "new" / "grid.parquet")
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["grid.parquet"]
    for field in dataclasses.fields(Grid):
        one, other = getattr(grid, field.name), getattr(found, field.name)
        assert np.array_equal(one, other, equal_nan=True) if field.name in ("loss", "accuracy") else one == other


def test_a_file_of_a_plane_has_one_row_a_point(tmp_path: Path) -> None:
    grid = bowl(4, points=5)
    grid.loss[2, 3] = np.inf
    write_grid(grid, tmp_path / "grid.parquet")
    frame = pq.read_table(tmp_path / "grid.parquet").to_pandas()
    assert list(frame) == ["job", "identity", "precision", "i", "j", "x", "y", "loss", "accuracy"]
    assert len(frame) == 25
    assert set(frame.precision) == {"Int4"}
    row = frame[(frame.i == 1) & (frame.j == 4)].iloc[0]
    assert (row.x, row.y) == (-0.5, 1.0)
    assert row.loss == grid.loss[1, 4] == pytest.approx(0.05 + 0.25 + 2)


def test_a_part_of_a_file_or_another_file_is_no_landscape(tmp_path: Path) -> None:
    path = tmp_path / "grid.parquet"
    for content in (b"", b"PAR1 nothing"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="holds no landscape"):
            read_grid(path)
    write_grid(bowl(4), path)
    table = pq.read_table(path)
    pq.write_table(table.slice(0, 80), path)
    with pytest.raises(ValueError, match="a part of one"):
        read_grid(path)
    pq.write_table(table.replace_schema_metadata({}), path)
    with pytest.raises(ValueError, match="holds no landscape"):
        read_grid(path)
    with pytest.raises(ValueError, match="holds no landscape"):
        read_grid(tmp_path / "missing.parquet")


@pytest.mark.parametrize("logarithm", [False, True])
def test_polydata_has_every_point_and_a_cell_between_each_four(logarithm: bool) -> None:
    grid = bowl(4, points=5)
    grid.loss[0, 1] = np.nan
    root = ElementTree.fromstring(polydata(grid, logarithm=logarithm))
    assert (root.tag, root.get("type")) == ("VTKFile", "PolyData")
    piece = root.find("PolyData/Piece")
    assert piece is not None
    assert (piece.get("NumberOfPoints"), piece.get("NumberOfPolys")) == ("25", "16")
    arrays = {one.get("Name"): np.array((one.text or "").split(), dtype=float) for one in piece.iter("DataArray")}
    points = arrays["Points"].reshape(25, 3)
    assert {tuple(point[:2]) for point in points} == {(x, y) for x in grid.axis for y in grid.axis}
    highest = grid.loss[np.isfinite(grid.loss)].max()
    for (x, y, z), loss in zip(points, arrays["loss"], strict=True):
        expected = 0.05 + x**2 + 2 * y**2
        if (x, y) == (-1, -0.5):
            assert np.isnan(loss)
            expected = highest
        else:
            assert loss == pytest.approx(expected)
        assert z == pytest.approx(np.log10(expected) if logarithm else expected)
    assert arrays["accuracy"] == pytest.approx(np.exp(-(points[:, 0] ** 2) - 2 * points[:, 1] ** 2))
    cells = arrays["connectivity"].astype(int).reshape(16, 4)
    assert arrays["offsets"].tolist() == list(range(4, 65, 4))
    middles = set()
    for cell in cells:
        around = points[cell][:, :2]
        sides = np.abs(around - np.roll(around, 1, axis=0))
        assert sorted(sides.sum(1).tolist()) == pytest.approx([0.5] * 4)  # it goes round, and not across
        middles.add(tuple(around.mean(0)))
    assert len(middles) == 16


def test_models_that_differ_in_precision_alone_stand_in_one_figure() -> None:
    grids = [bowl(bits, learning_rate=rate) for rate in (0.1, 0.05) for bits in (2, 32)]
    found = configurations(grids)
    assert [[grid.precision for grid in one.grids] for one in found] == [["FP32", "Int2"]] * 2
    assert [one.title for one in found] == [
        "NiN 3x8 on Digits, learning rate 0.1",
        "NiN 3x8 on Digits, learning rate 0.05",
    ]
    assert len({one.slug for one in found}) == 2


def test_all_panels_of_a_figure_have_one_scale(precisions: Configuration) -> None:
    assert [grid.precision for grid in precisions.grids] == ["FP32", "Int8", "Int4", "Int2"]
    for scale, low in ((Scale.LOG, 0.05), (Scale.LINEAR, 0.0)):
        span = Range.of(precisions.grids, scale)
        assert (span.low, span.high) == pytest.approx((low, 0.05 + 40 * 3))
        with rc_context(STYLE):
            figures = dict(drawn_figures(precisions, scale))
        assert set(figures) == {"surface", "contour"}
        limits = {axes.get_zlim() for axes in figures["surface"].axes}  # type: ignore[attr-defined]
        assert len(limits) == 1
        expected = (np.log10(low), np.log10(span.high)) if scale is Scale.LOG else (0.0, span.high)
        assert limits.pop() == pytest.approx(expected)
        panels = figures["contour"].axes[:4]
        meshes = [axes.collections[0] for axes in panels]
        assert {(mesh.norm.vmin, mesh.norm.vmax) for mesh in meshes} == {(span.low, span.high)}
        assert [axes.get_title("left").split()[0] for axes in panels] == ["FP32", "Int8", "Int4", "Int2"]
        drawn = np.asarray(meshes[3].get_array()).reshape(9, 9)
        assert drawn[0, 0] == span.high  # what is not finite stands at the top
        assert drawn[8, 2] == pytest.approx(precisions.grids[3].loss[2, 8])  # x to the right, y up


@pytest.mark.slow
def test_figures_are_written_in_every_form(tmp_path: Path) -> None:
    drawn = configurations([bowl(8), *(bowl(bits, view=LINE) for bits in (32, 2)), bowl(8, view=BETWEEN)])
    written = draw_landscapes(drawn, tmp_path / "figures", Scale.LOG)
    assert sorted(written) == sorted((tmp_path / "figures").iterdir())
    kinds = sorted((path.name.split("-")[0], path.suffix) for path in written)
    wanted = {"contour": 1, "line": 2, "surface": 1}
    assert kinds == sorted((name, form) for name in wanted for form in (".pdf", ".png", ".svg") * wanted[name])
    starts = {".pdf": b"%PDF", ".png": b"\x89PNG", ".svg": b"<?xml"}
    assert all(path.read_bytes().startswith(starts[path.suffix]) for path in written)


def test_the_page_is_one_file_with_the_numbers_in_it(precisions: Configuration) -> None:
    page = render_page([precisions], scale="log")
    assert page == render_page([precisions], scale="log")
    assert not re.search(r"https?://|@import|url\(", page)
    assert page.count("<script") == 2
    assert "0.05" in page
    assert "−0.0123" in page


needs_browser = pytest.mark.skipif(
    not (CHROMIUM and CHROMEDRIVER) and "browser" not in os.environ.get("QSWEEP_REQUIRE", ""),
    reason="there is no Chromium with its driver",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with started(tmp_path_factory.mktemp("browser")) as found:
        yield found


def complaints(browser: Browser) -> list[str]:
    """What the console said, but for its advice on reading pixels, which the test does."""
    return [message for message in browser.messages() if "willReadFrequently" not in message]


COLOURS = """
const canvas = document.querySelectorAll("#panels canvas")[%d], context = canvas.getContext("2d");
const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data, seen = new Set();
let sum = 0;
for (let place = 0; place < pixels.length; place += 4) if (pixels[place + 3] === 255) {
  seen.add(pixels[place] * 65536 + pixels[place + 1] * 256 + pixels[place + 2]);
  sum = (sum * 31 + pixels[place] + place) %% 1000003;
}
return [seen.size, sum];
"""


@pytest.mark.slow
@needs_browser
def test_the_page_draws_surfaces_that_turn(precisions: Configuration, tmp_path: Path, browser: Browser) -> None:
    page = tmp_path / "landscape.html"
    page.write_text(render_page([precisions], scale="log"), encoding="utf-8")
    browser.look(width=1200)
    browser.open(page)
    assert browser.run("return document.querySelectorAll('#panels canvas').length") == 4
    first = [browser.run(COLOURS % number) for number in range(4)]
    assert all(colours > 40 for colours, _ in first)
    box = browser.run(
        "const box = document.querySelector('#panels canvas').getBoundingClientRect();"
        "return [box.x, box.y, box.width, box.height]"
    )
    x, y = box[0] + box[2] / 2, box[1] + box[3] / 2
    browser.devtools("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, button="left", clickCount=1)
    browser.devtools("Input.dispatchMouseEvent", type="mouseMoved", x=x + 80, y=y + 20, button="left", buttons=1)
    browser.devtools("Input.dispatchMouseEvent", type="mouseReleased", x=x + 80, y=y + 20, button="left")
    browser.run("draw(); return 0")
    browser.look(width=1200)
    turned = [browser.run(COLOURS % number) for number in range(4)]
    assert all(one != other for one, other in zip(first, turned, strict=True))
    browser.devtools("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y + 10)
    told = browser.run("const t = document.getElementById('tip'); return [t.style.visibility, t.textContent]")
    assert told[0] == "visible"
    assert re.search(r"FP32: x [−.\d]+, y [−.\d]+\nloss [\d.]+ nats\naccuracy [\d.]+%", told[1])
    for label in ("Accuracy", "Linear", "Above", "Reset", "Dark"):
        browser.run(
            "[...document.querySelectorAll('#controls button')]"
            f".find((one) => one.textContent === '{label}').click(); return 0"
        )
    browser.look(width=390, height=800, dark=True)
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    assert complaints(browser) == []


@pytest.mark.slow
@needs_browser
def test_the_page_draws_lines(tmp_path: Path, browser: Browser) -> None:
    lines = configurations([bowl(bits, view=LINE) for bits in (32, 2)])
    page = tmp_path / "lines.html"
    page.write_text(render_page(lines, scale="log"), encoding="utf-8")
    browser.look(width=1000)
    browser.open(page)
    assert browser.run("return panels.map((one) => one.spots.length)") == [18, 18]
    assert all(browser.run(COLOURS % number)[0] > 5 for number in (0, 1))
    assert complaints(browser) == []
