"""What stands behind a cell of a table: jobs, attempts, code and files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from qsweep.db.schema import ROW_KINDS
from qsweep.reports.declaration import Column
from qsweep.reports.escaping import on_one_line
from qsweep.reports.listing import listed
from qsweep.reports.screen import paragraph
from qsweep.reports.source import Source
from qsweep.reports.table import Cell, Row, Table
from qsweep.sweeps.errors import InputError, nearest
from qsweep.sweeps.grid import Settings
from qsweep.sweeps.settings import varying

ORIGIN = ("attempt", "code", "torch", "device", "host", "finished_at")
"""Columns of the results that say where a value comes from."""


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """A cell and the counted rows behind it: one a job, with `job`, `value`, its settings that vary, and `file`."""

    address: str
    table: Table
    row: Row
    cell: Cell
    jobs: pa.Table


def find_cell(tables: Sequence[Table], address: str) -> tuple[Table, Row, Column, Cell]:
    """The cell called `KEY/…/COLUMN`, whatever the case. Raises InputError with the nearest ones."""
    known: dict[str, tuple[Table, Row, Column, Cell]] = {}
    for table in tables:
        for row in table.rows:
            for column, cell in zip(table.declaration.columns, row.cells, strict=True):
                known.setdefault("/".join([*row.keys, column.name]), (table, row, column, cell))
    wanted = _folded(address)
    for name, found in known.items():
        if _folded(name) == wanted:
            return found
    below = [name for name in known if _folded(name).startswith(wanted + "/")]
    if below:
        endings = list(dict.fromkeys(name[len(wanted) + 1 :] for name in below))
        allowed = "go on with: " + ", ".join(endings[:12]) + (", …" if len(endings) > 12 else "")
    else:
        allowed = nearest(address, known) if len(known) < 8 else _near(address, list(known))
    raise InputError(f"there is no cell {address!r}", place="--explain", allowed=allowed)


def _folded(address: str) -> str:
    return "/".join(part.strip().casefold() for part in address.split("/"))


def _near(address: str, known: list[str]) -> str:
    close = nearest(address, known)
    return close if close.startswith("did you mean") else f"for example {known[0]!r}"


def explain(source: Source, tables: Sequence[Table], address: str) -> Explanation:
    """What is behind the cell of that address. Raises InputError if there is none."""
    table, row, column, cell = find_cell(tables, address)
    kind = table.declaration.kind
    results = source.read(kind, ["job", *(one for one in ORIGIN if one in ROW_KINDS[kind].columns.names)])
    stored = source.read("jobs", ["job", "publication", "model_file"])
    behind = [{"job": job, column.name: value} for job, value in cell.behind]
    values = pa.Table.from_pylist(behind, pa.schema([("job", pa.string()), (column.name, pa.float64())]))
    joined = values.join(results, "job", join_type="inner").join(stored, "job", join_type="inner").sort_by("job")
    files = [source.place_of(kind, one) for one in joined["publication"].to_pylist()]
    settings = _varying(source, joined["job"].to_pylist())
    shown = joined.drop(["publication"]).append_column("file", pa.array(files, pa.string()))
    for index, (name, texts) in enumerate(settings.items()):
        shown = shown.add_column(2 + index, name, pa.array(texts, pa.string()))
    return Explanation(address="/".join([*row.keys, column.name]), table=table, row=row, cell=cell, jobs=shown)


def _varying(source: Source, jobs: list[str]) -> dict[str, list[str]]:
    """The settings in which these jobs differ."""
    known = Settings(source.jobs)
    rows = [known.get(job, {}) for job in jobs]
    return {name: [str(row.get(name, "")) for row in rows] for name in varying(rows)}


def told(explanation: Explanation, width: int | None = None) -> str:
    """The explanation as text, for a terminal of that width: the value, what it comes from in short, the jobs."""
    cell, row, jobs = explanation.cell, explanation.row, explanation.jobs
    lines = [
        f"{explanation.address} — {explanation.table.declaration.heading} — {explanation.table.heading}",
        f"value     {_number(cell.mean)}" + ("" if cell.error is None else f" ± {_number(cell.error)} standard error"),
        f"models    {row.counted} of {row.expected}; {cell.count} in this cell",
    ]
    if cell.paper is not None:
        beside = explanation.table.compared_with
        lines.append(f"paper     {_number(cell.paper)}" + (f" ({beside})" if beside else ""))
    if row.diverged:
        lines.append(f"left out  {len(row.diverged)} diverged: " + ", ".join(job[:12] for job in row.diverged))
    origin = [one for one in ORIGIN if one in jobs.column_names and one != "finished_at"]
    lines += [f"{name:<9} " + _counted(jobs[name]) for name in origin]
    if "finished_at" in jobs.column_names and jobs.num_rows:
        span = pc.min_max(jobs["finished_at"]).as_py()
        lines.append("finished  " + " to ".join(f"{one:%Y-%m-%d %H:%M:%S}" for one in span.values()) + " UTC")
    files = [Path(one) for one in jobs["file"].to_pylist()]
    lines += [f"files     {len({*files})} in {folder}" for folder in dict.fromkeys(one.parent for one in files)]
    lines = [on_one_line(line) for line in lines]
    if width is not None:
        lines[:1] = paragraph(lines[0], width)
    if not jobs.num_rows:
        return "\n".join(lines) + "\n"
    short = jobs.set_column(0, "job", pc.utf8_slice_codeunits(jobs["job"], 0, 12))
    kept = [one for one in short.column_names if one not in ("code", "torch", "device", "host", "file", "model_file")]
    shown = short.select(kept).append_column("file", pa.array([one.name for one in files]))
    return "\n".join(lines) + "\n\n" + listed(shown, width=width)


def _counted(column: pa.ChunkedArray) -> str:
    """The distinct values, each with the number of jobs behind it where there are several."""
    found = Counter(str(value) for value in column.to_pylist())
    if len(found) == 1:
        return next(iter(found))
    return ", ".join(f"{value} ({count})" for value, count in sorted(found.items()))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.6g}"
