"""The page as a whole: the same results give the same bytes."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from qsweep.db.losses import counted
from qsweep.reports.analysis.claims import SAQ, Claim
from qsweep.reports.analysis.explained import NOTES
from qsweep.reports.analysis.methods import SIGNS, Answer, FlatOrSharp
from qsweep.reports.analysis.text import (
    ASSOCIATION_NOTES,
    claim_note,
    comparison_notes,
    outside_notes,
    p_text,
    quantity_span,
    quantity_text,
    reason_of,
)
from qsweep.reports.charts.general import GENERAL
from qsweep.reports.evidence import Evidence
from qsweep.reports.labels import counts_text, layer_note
from qsweep.reports.page.charts import make_charts
from qsweep.reports.page.document import asset, embedded, hash_of, template
from qsweep.reports.page.joblist import JobList, list_jobs
from qsweep.reports.page.tables import (
    PageCell,
    PageTable,
    association_table,
    attempts_table,
    comparison_table,
    explained_table,
    paper_tables,
    provenance_table,
    trouble_table,
)
from qsweep.reports.quantization import FULL, Quantization, quantization_of
from qsweep.reports.series import by_quantization, timeline
from qsweep.sweeps.kinds import CALL, KINDS, TRAIN, Kind

SECTIONS = (
    ("effects-0", "effects", "Hyperparameters"),
    ("curves-0", "training", "Training"),
    ("scatter-0", "measures", "Measures"),
    ("steps-0", "steps", "Step sizes"),
)
"""Sections that are there only with their chart: chart, anchor and name."""
SCRIPTS = ("charts.js", "parallel.js", "page.js")


@dataclass(frozen=True, kw_only=True)
class Group:
    """What the page shows of one data set and one family of networks."""

    name: str
    counted: str
    """How many models its figures show."""
    layers: str
    """What the short names of its layers mean."""
    comparisons: PageTable
    associations: PageTable


def render_page(evidence: Evidence) -> str:
    """The report as one HTML document that needs nothing else."""
    jobs = list_jobs(evidence)
    charts = make_charts(evidence, jobs)
    tables = paper_tables(evidence, jobs)
    attempts, trouble = attempts_table(evidence, jobs), trouble_table(evidence, jobs)
    explored = [kind for kind, ids in jobs.ids.items() if len(ids) > 1]
    style = Markup(asset("page.css"))
    script = Markup("\n".join(asset(name) for name in SCRIPTS))
    numbers = itertools.count(1)
    noun = "model" if evidence.returned is None else CALL.noun
    drawn = {"kind": jobs.drawn, "noun": noun}
    return template("page.html").render(
        title=evidence.title,
        heading=evidence.spec.title,
        lead=_lead(evidence),
        facts=_facts(evidence),
        of_paper=evidence.is_of_paper,
        returned=evidence.returned,
        explained=explained_table(evidence.explained),
        explained_notes=NOTES,
        contents=list(_contents(evidence, charts, explored)),
        answers=_answers(evidence.analysis.flat_or_sharp),
        claims=_claims(evidence.analysis.claims),
        about_methods=any(claim.where == SAQ for claim in evidence.analysis.claims),
        reason_of=reason_of,
        claim_note=" ".join([claim_note(evidence.analysis.options), *outside_notes(evidence.analysis)]),
        tables=tables,
        groups=_groups(evidence),
        comparison_note=" ".join(comparison_notes()),
        association_notes=ASSOCIATION_NOTES,
        attempts=attempts,
        trouble=trouble,
        progress_note=_progress_note(evidence),
        provenance=provenance_table(evidence),
        provenance_note=_provenance_note(evidence),
        specification=json.dumps(json.loads(evidence.sweep.spec), indent=1, ensure_ascii=False),
        footer=_footer(evidence, jobs),
        jobs_carried=any(jobs.ids.values()),
        explored=explored,
        charts=charts,
        count=lambda: next(numbers),
        data=embedded({"charts": charts, "jobs": jobs.content, "sets": jobs.sets, **drawn}),
        style=style,
        script=script,
        style_hash=hash_of(style),
        script_hash=hash_of(script),
    )


def _lead(evidence: Evidence) -> str:
    if evidence.returned is not None:
        return f"{len(evidence.returned.numbers):,} runs of {evidence.returned.noun}{_missing(evidence)}"
    rows: Any = evidence.runs.to_dict("records")
    words = [_words(one) for one in sorted({quantization_of(row) for row in rows})]
    listed = ", ".join(words[:-1]) + (" and " if len(words) > 1 else "") + words[-1] if words else "no precision yet"
    return f"{len(evidence.runs):,} models at {listed}{_missing(evidence)}"


def _missing(evidence: Evidence) -> str:
    """What is lost of the results."""
    jobs = {one.job for one in evidence.lost}
    kinds = ", ".join(sorted({one.kind for one in evidence.lost}))
    return f"; the results of {counted(jobs)} are lost ({kinds}) and left out" if jobs else ""


def _words(one: Quantization) -> str:
    if one == FULL:
        return "full precision"
    return f"{one.bits} bits" if one.variant == FULL.variant else str(one)


def _facts(evidence: Evidence) -> list[tuple[str, str]]:
    expected = Counter(job.kind for job in evidence.spec.jobs())
    facts = [
        (f"{_product(kind)} done", f"{len(evidence.results[kind.name]):,} of {expected[kind]:,}")
        for kind in KINDS.values()
        if expected[kind] or (kind is TRAIN and evidence.returned is None)
    ]
    states = evidence.jobs["state"].value_counts()
    facts.append(("Failed", f"{int(states.get('failed', 0)):,}"))
    runs = evidence.runs if evidence.returned is None else evidence.results[CALL.name]
    facts.append(("Diverged", f"{int(runs['diverged'].fillna(value=False).sum()):,}"))
    ended, started = evidence.attempts["ended_at"].max(), evidence.attempts["started_at"].min()
    if not pd.isna(ended) and not pd.isna(started):
        facts.append(("Wall-clock time", _duration((ended - started).total_seconds())))
    seconds = sum(float(one["seconds"].sum()) for one in evidence.results.values())
    facts.append(("Compute", _duration(seconds)))
    return facts


def _product(kind: Kind) -> str:
    """What its jobs make, as the head of the page counts it."""
    return kind.plural.capitalize() if kind.parents or kind.of_user else "Models"


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _contents(evidence: Evidence, charts: dict[str, Any], explored: Sequence[str]) -> Iterator[tuple[str, str]]:
    if evidence.analysis.flat_or_sharp:
        yield "answer", "Flat or sharp?"
    if evidence.is_of_paper:
        yield "claims", "Claims"
    yield "tables", "Tables"
    if evidence.returned is not None:
        yield from ((name, name.capitalize()) for name in GENERAL if name in charts)
        if evidence.explained:
            yield "explained", "Explained"
    if evidence.models:
        yield "precision", "By precision"
    for chart, anchor, name in SECTIONS:
        if chart in charts:
            yield anchor, name
    if explored:
        yield "explore", "Every job"
    yield "progress", "Progress"
    yield "provenance", "Provenance"


def _answers(found: Sequence[FlatOrSharp]) -> list[tuple[str, list[Answer], PageTable, PageTable]]:
    """Of each group: its name, the answer in words, the signs behind it by convention, and these pair by pair."""
    return [(one.group, one.answers(), _sign_table(one), _answer_table(one)) for one in found]


def _sign_table(one: FlatOrSharp) -> PageTable:
    rows = tuple(
        (PageCell(text=search), PageCell(text=convention, words=True), *(PageCell(text=signs) for signs in marks))
        for search, convention, marks in one.by_search()
    )
    return PageTable(
        caption=f"{one.group}: flatter or sharper, by search and convention.",
        header=(("Measure", False), ("Convention", False), *((name, False) for name in one.names)),
        rows=rows,
        remarks=(SIGNS,),
    )


def _answer_table(one: FlatOrSharp) -> PageTable:
    names = one.names
    rows = tuple(
        (
            PageCell(text=row.label, words=True),
            *(PageCell(text=str(row.cells.get(name, "")), words=True) for name in names),
        )
        for row in one.rows
    )
    remark = "In how many pairs the first of the two is flatter stands in brackets. " + (
        "Methods are compared over quantized models alone."
    )
    return PageTable(
        caption=f"{one.group}: flatter or sharper, by measure and convention.",
        header=(("Measure (convention)", False), *((name, False) for name in names)),
        rows=rows,
        remarks=(remark,),
    )


def _claims(claims: Sequence[Claim]) -> list[tuple[str, list[tuple[Claim, PageTable]]]]:
    return [
        (group, [(claim, _claim_table(claim)) for claim in members])
        for group, members in itertools.groupby(claims, key=lambda claim: claim.group)
    ]


def _claim_table(claim: Claim) -> PageTable:
    rows = tuple(
        (
            PageCell(text=number.label.replace("_", " ")),
            PageCell(text=str(number.verdict or "")),
            PageCell(text=number.note, words=True),
            PageCell(text=quantity_text(number), sort=number.value, numeric=True),
            PageCell(text=quantity_span(number), sort=number.low, numeric=True),
            PageCell(text="" if number.p_value is None else p_text(number.p_value), sort=number.p_value, numeric=True),
            PageCell(text=number.method, words=True),
        )
        for number in claim.numbers
    )
    header = (
        ("Quantity", False),
        ("Verdict", False),
        ("Note", False),
        ("Value", True),
        ("95% interval", True),
        ("p", True),
        ("Test", False),
    )
    return PageTable(caption=f"{claim.statement}: the numbers.", header=header, rows=rows)


def _groups(evidence: Evidence) -> list[Group]:
    analysis = evidence.analysis
    return [
        Group(
            name=models.group,
            counted=counts_text(models.group, {str(one): len(group) for one, group in by_quantization(models.runs)}),
            layers=layer_note(evidence.layers["layer"]),
            comparisons=comparison_table([one for group, one in analysis.comparisons if group == models.group]),
            associations=association_table([one for one in analysis.associations if one.group == models.group]),
        )
        for models in evidence.models
    ]


def _progress_note(evidence: Evidence) -> str:
    found = timeline(evidence.attempts, evidence.jobs.set_index("job")["kind"])
    if found is None:
        return ""
    return f"Jobs done, and how fast, since the first attempt began at {found.start:%Y-%m-%d %H:%M} UTC."


def _provenance_note(evidence: Evidence) -> str:
    return (
        f"Every number above is computed from the committed rows of {evidence.title}: of each job the one attempt that "
        f"counts. The same rows give this page again, byte for byte: qsweep report {evidence.title}."
    )


def _footer(evidence: Evidence, jobs: JobList) -> str:
    whole, carried = len(evidence.jobs), sum(map(len, jobs.ids.values()))
    sample = (
        f" Lists of jobs show {carried:,} of {whole:,} jobs, a random sample; every number is of all. "
        f"qsweep jobs {evidence.title} lists them all."
    )
    return f"A report of qsweep. Times are UTC.{sample if carried < whole else ''}"
