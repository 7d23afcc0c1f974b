"""A surface as ParaView's XML PolyData (`.vtp`), as `h5_to_vtp.py` of tomgoldstein/loss-landscape writes them."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from qsweep.reports.landscape.grid import Grid
from qsweep.sweeps.wholefiles import write_whole


def polydata(grid: Grid, *, logarithm: bool) -> bytes:
    """The surface as an XML document: N² points and (N − 1)² quadrilaterals, with loss and accuracy at each point.

    A point stands at (x, y, loss), or log₁₀ of the loss. Where the loss is not finite it stands as high as the
    highest finite one, and its loss is NaN.
    """
    count = grid.asked.points
    x, y = np.meshgrid(grid.axis, grid.axis, indexing="ij")
    finite = grid.loss[np.isfinite(grid.loss)]
    height = np.where(np.isfinite(grid.loss), grid.loss, finite.max() if finite.size else 0.0)
    if logarithm:
        positive = height[height > 0]
        height = np.log10(np.maximum(height, positive.min() if positive.size else 1.0))
    corner = (np.arange(count - 1)[:, None] * count + np.arange(count - 1)).ravel()
    cells = np.stack([corner, corner + count, corner + count + 1, corner + 1], axis=1)

    file = ElementTree.Element("VTKFile", type="PolyData", version="0.1", byte_order="LittleEndian")
    piece = ElementTree.SubElement(
        ElementTree.SubElement(file, "PolyData"),
        "Piece",
        NumberOfPoints=str(count**2),
        NumberOfVerts="0",
        NumberOfLines="0",
        NumberOfStrips="0",
        NumberOfPolys=str(len(cells)),
    )
    values = ElementTree.SubElement(piece, "PointData", Scalars="loss")
    _array(values, "loss", "Float64", grid.loss.ravel())
    _array(values, "accuracy", "Float64", grid.accuracy.ravel())
    points = np.stack([x.ravel(), y.ravel(), height.ravel()], axis=1)
    _array(ElementTree.SubElement(piece, "Points"), "Points", "Float64", points, components=3)
    polygons = ElementTree.SubElement(piece, "Polys")
    _array(polygons, "connectivity", "Int64", cells)
    _array(polygons, "offsets", "Int64", 4 * np.arange(1, len(cells) + 1))
    ElementTree.indent(file, space=" ")
    content: bytes = ElementTree.tostring(file, encoding="utf-8", xml_declaration=True)
    return content


def _array(parent: ElementTree.Element, name: str, kind: str, values: np.ndarray, *, components: int = 1) -> None:
    attributes = {"type": kind, "Name": name, "format": "ascii"}
    if components > 1:
        attributes["NumberOfComponents"] = str(components)
    array = ElementTree.SubElement(parent, "DataArray", attributes)
    array.text = "\n".join(" ".join(map(repr, row)) for row in np.atleast_2d(values).tolist())


def write_polydata(grid: Grid, path: Path, *, logarithm: bool) -> Path:
    """Write the surface of a plane; the file appears whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, polydata(grid, logarithm=logarithm), tidy=True)
    return path
