"""The page's tables: rows of cells that sort, and that may lead to the jobs behind them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from qsweep.reports.analysis.analysis import Association
from qsweep.reports.analysis.explained import HEADER as EXPLAINED_HEADER
from qsweep.reports.analysis.explained import Explained, explained_cells
from qsweep.reports.analysis.pairing import Paired
from qsweep.reports.analysis.text import (
    ASSOCIATION_HEADER,
    COMPARISON_HEADER,
    association_cells,
    comparison_cells,
    shown,
)
from qsweep.reports.evidence import Evidence
from qsweep.reports.labels import MEASURE_TITLES, setting_label, zeroed
from qsweep.reports.page.joblist import JobList
from qsweep.reports.render import Layout, notes, paper_text
from qsweep.reports.table import Table
from qsweep.sweeps.kinds import FLATNESS, KINDS, TRAIN

BLANK = ("", "–")


@dataclass(frozen=True, kw_only=True)
class PageCell:
    """One cell. `sort` is what it sorts by where that is not its text; `jobs` the set of jobs it leads to."""

    text: str
    small: str = ""
    sort: float | None = None
    numeric: bool = False
    jobs: int | None = None
    kind: str = TRAIN.name
    by: str = ""
    title: str = ""
    wrap: bool = False
    """Long: its column may be wide, and wraps."""
    words: bool = False
    """Short, but may wrap between words."""

    @property
    def shown(self) -> str:
        """The text with real minus signs."""
        return self.text.replace("-", "−").replace("< ", "<\u00a0") if self.numeric else self.text


@dataclass(frozen=True, kw_only=True)
class PageTable:
    """One table; `numeric` says of each column whether it stands to the right."""

    caption: str
    header: tuple[tuple[str, bool], ...]
    rows: tuple[tuple[PageCell, ...], ...]
    remarks: tuple[str, ...] = ()

    def filled(self) -> PageTable:
        """The table without the columns in which no cell says anything."""
        kept = [
            index
            for index in range(len(self.header))
            if not self.rows or any(row[index].text not in BLANK for row in self.rows)
        ]
        return replace(
            self,
            header=tuple(self.header[index] for index in kept),
            rows=tuple(tuple(row[index] for index in kept) for row in self.rows),
        )


def paper_tables(evidence: Evidence, jobs: JobList) -> list[PageTable]:
    """The tables that the sweep declares, beside the paper's values."""
    return [_page_table(table, jobs) for table in evidence.tables]


def _page_table(table: Table, jobs: JobList) -> PageTable:
    declaration = table.declaration
    rows = []
    for row in table.rows:
        cells = [PageCell(text=key, words=" · " in key) for key in row.keys]
        for cell, column in zip(row.cells, declaration.columns, strict=True):
            members = [job for job, _ in cell.behind]
            kind = jobs.kind_of(members)
            small = [] if cell.error is None else [f"± {cell.error:.{column.decimals}f}"]
            small += [] if cell.paper is None else [f"paper {paper_text(cell, column)}"]
            cells.append(
                PageCell(
                    text="–"
                    if cell.mean is None
                    else f"{zeroed(cell.mean, column.decimals):.{column.decimals}f}{cell.marks}",
                    small="\n".join(small),
                    sort=cell.mean,
                    numeric=True,
                    jobs=jobs.add(kind, members),
                    kind=kind,
                    by=_column(column.value, kind),
                    title=f"{' '.join(row.keys)}: {column.label}",
                )
            )
        models = f"{row.counted}/{row.expected}"
        cells.append(PageCell(text=models, sort=float(row.done), numeric=True))
        rows.append(tuple(cells))
    texts = [(setting_label(name), False) for name in declaration.rows]
    numbers = [(column.label, True) for column in declaration.columns]
    return PageTable(
        caption=f"{declaration.heading}.",
        header=(*texts, *numbers, (declaration.nouns.capitalize(), True)),
        rows=tuple(rows),
        remarks=tuple(notes(table, Layout(against_paper=True))),
    )


def _column(value: str, kind: str) -> str:
    """The column of the list of jobs that holds this value of a table."""
    if kind != FLATNESS.name:
        return value
    end = value.rpartition("_")[2]
    return f"value_{end}" if end in ("init", "orig") else end


def comparison_table(comparisons: Sequence[Paired]) -> PageTable:
    """Each precision against full precision."""
    rows = []
    for one in comparisons:
        values = (one.reference, one.mean, one.difference, one.low, one.adjusted_p, one.improved, one.pairs)
        metric = one.metric.replace("_", " ") + (" (%)" if "accuracy" in one.metric else "")
        cells = [PageCell(text=metric), PageCell(text=str(one.precision))]
        cells += [
            PageCell(text=text, sort=None if value is None else float(value), numeric=True)
            for text, value in zip(comparison_cells(one), values, strict=True)
        ]
        rows.append(tuple(cells))
    header = (("Metric", False), ("Precision", False), *((name, True) for name in COMPARISON_HEADER))
    return PageTable(
        caption="Each precision against FP32 over the configurations that both have.",
        header=header,
        rows=tuple(rows),
    )


def explained_table(found: Sequence[Explained]) -> PageTable:
    """What the numbers that runs return go with."""
    rows = []
    for one in found:
        values = (None, None, float(one.values), float(one.runs), one.share, one.tau, one.p_value)
        cells = zip(explained_cells(one), values, strict=True)
        rows.append(
            tuple(PageCell(text=text, sort=value, numeric=place > 1) for place, (text, value) in enumerate(cells))
        )
    return PageTable(
        caption="What each returned number goes with.",
        header=tuple((name, place > 1) for place, name in enumerate(EXPLAINED_HEADER)),
        rows=tuple(rows),
    )


def association_table(associations: Sequence[Association]) -> PageTable:
    """What goes with the gap."""
    rows = []
    for one in associations:
        texts = association_cells(one)
        errors = [environment.error for environment in one.environments]
        values = {
            0: one.kendall.tau,
            1: one.adjusted_p,
            2: float(one.kendall.models),
            4: one.granulated.overall,
            6: sum(errors) / len(errors) if errors else None,
            7: max(errors, default=None),
        }
        title = MEASURE_TITLES.get(one.name, one.name.replace("_", " "))
        cells = [PageCell(text=title, words=True), PageCell(text=one.convention, words=True)]
        cells += [
            PageCell(text=text.replace("-", "−"), sort=values.get(index), numeric=index in values, wrap=index in (3, 5))
            for index, text in enumerate(texts)
        ]
        rows.append(tuple(cells))
    numeric = (0, 1, 2, 4, 6, 7)
    header = [("Quantity", False), ("Convention", False)]
    header += [(name, index in numeric) for index, name in enumerate(ASSOCIATION_HEADER)]
    return PageTable(
        caption="Rank association of each measure and hyperparameter with the generalization gap.",
        header=tuple(header),
        rows=tuple(rows),
    )


def attempts_table(evidence: Evidence, jobs: JobList) -> PageTable:
    """Attempt outcomes: by kind of job, outcome and class of failure."""
    attempts = evidence.attempts
    kinds = attempts["job"].map(evidence.jobs.set_index("job")["kind"])
    ended = attempts["failure_class"].fillna(attempts["outcome"]).fillna("running")
    ended = ended.where(attempts["superseded"].isna(), "superseded")
    rows = []
    for (kind, end), group in attempts.groupby([kinds.rename("kind"), ended.rename("ended")], sort=True):
        seconds = (group["ended_at"] - group["started_at"]).dt.total_seconds()
        key = jobs.add(str(kind), group["job"])
        rows.append(
            (
                PageCell(text=_noun(str(kind))),
                PageCell(text=str(end)),
                PageCell(
                    text=f"{len(group):,}",
                    sort=float(len(group)),
                    numeric=True,
                    jobs=key,
                    kind=str(kind),
                    title=f"{kind}: {end}",
                ),
                _count(group["job"].nunique()),
                _count(int((group["resumed_from"] > 0).sum())),
                PageCell(text=shown(float(seconds.median()), 1), sort=float(seconds.median()), numeric=True),
                PageCell(text=_last_line(group["error"]), wrap=True),
            )
        )
    header = ("Kind", "Ended", "Attempts", "Jobs", "Resumed from a checkpoint", "Median time (s)", "Last error")
    return PageTable(
        caption="Attempt outcomes.",
        header=tuple((name, 2 <= index <= 5) for index, name in enumerate(header)),
        rows=tuple(rows),
    )


def trouble_table(evidence: Evidence, jobs: JobList) -> PageTable | None:
    """The jobs that failed, diverged, or took more than one attempt; None without any."""
    found = evidence.jobs
    found = found[(found["state"] == "failed") | found["diverged"] | (found["attempt"] > 1)]
    if found.empty:
        return None
    rows = []
    for one in found.to_dict("records"):
        job, kind = str(one["job"]), str(one["kind"])
        rows.append(
            (
                PageCell(text=job[:12], jobs=jobs.add(kind, [job]), kind=kind, title=job[:12]),
                PageCell(text=_noun(kind)),
                PageCell(text=f"{one['state']}{', diverged' if one['diverged'] else ''}"),
                _count(int(one["attempt"])),
                PageCell(text=_last_line([one["error"]]), wrap=True),
            )
        )
    header = ("Job", "Kind", "State", "Attempts", "Last error")
    return PageTable(
        caption="Jobs that failed, diverged or needed more than one attempt.",
        header=tuple((name, index == 3) for index, name in enumerate(header)),
        rows=tuple(rows),
    )


def provenance_table(evidence: Evidence) -> PageTable:
    """Software and hardware of the results: code, libraries, machines."""
    names = ["code", "torch", "device", "host", "precision", "slots", "form"]
    rows = []
    for kind, frame in evidence.results.items():
        if frame.empty:
            continue
        keyed = frame.reindex(columns=names).map(lambda value: "–" if pd.isna(value) else str(value))
        for keys, group in frame.groupby([keyed[name] for name in names], sort=True):
            values = keys if isinstance(keys, tuple) else (keys,)
            seconds = float(group["seconds"].sum())
            cells = [PageCell(text=_noun(kind)), *(PageCell(text=str(value)) for value in values), _count(len(group))]
            cells.append(PageCell(text=f"{seconds / 3600:,.2f}", sort=seconds, numeric=True))
            rows.append(tuple(cells))
    header = ["Kind", "Code", "Torch", "Device", "Host", "Precision", "Slots", "Form", "Jobs", "Hours of one slot"]
    return PageTable(
        caption="Software and hardware.",
        header=tuple((name, index >= 8) for index, name in enumerate(header)),
        rows=tuple(rows),
    )


def _noun(kind: str) -> str:
    """What the page calls a kind of jobs: runs of the user's code have no other name."""
    return KINDS[kind].noun if KINDS[kind].of_user else kind


def _count(value: int) -> PageCell:
    return PageCell(text=f"{value:,}", sort=float(value), numeric=True)


def _last_line(errors: Iterable[object]) -> str:
    """The last line of the last error that says something."""
    for error in reversed([str(one) for one in errors if one]):
        lines = [line.strip() for line in error.splitlines() if line.strip()]
        if lines:
            return lines[-1][:300]
    return ""
