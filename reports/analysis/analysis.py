"""The analysis of one sweep: what is correlated with the gap, how precisions compare, which claims hold."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from qsweep.reports.analysis.claims import (
    FLATTER,
    GAP_SHRINKS,
    LOSS_GROWS,
    STEPS_GROW,
    Claim,
    Margins,
    Verdict,
    eight_bits_equal,
    flatter,
    trend,
)
from qsweep.reports.analysis.coordinates import hyperparameters, is_ordered, place_in_grid
from qsweep.reports.analysis.correlation import (
    Environment,
    Granulated,
    Kendall,
    Lines,
    Resampling,
    granulate,
    kendall,
    lines_of,
    sign_errors,
)
from qsweep.reports.analysis.measured import Quantity, flatness_quantities, quantities
from qsweep.reports.analysis.methods import (
    FLATTER_THAN_PLAIN,
    METHOD,
    FlatOrSharp,
    Methods,
    flat_or_sharp,
    judge,
    methods_of,
)
from qsweep.reports.analysis.on_images import FLATTER_IMAGES, FLATTER_IS_BETTER, judge_on_images
from qsweep.reports.analysis.pairing import METRICS, Paired, adjust, compare, holm, matched
from qsweep.reports.frames import texts_of
from qsweep.reports.outliers import is_outside
from qsweep.reports.quantization import FULL, Quantization, quantizations
from qsweep.sweeps.components import PARTS, naming_settings
from qsweep.sweeps.datasets import data_of
from qsweep.sweeps.job import Job
from qsweep.sweeps.spec import Spec
from qsweep.sweeps.training import Training

GAP = "generalization_gap"
MEASURED = (FLATTER.name, FLATTER_THAN_PLAIN.name, FLATTER_IMAGES.name, FLATTER_IS_BETTER.name)
"""The claims that rest on measures."""


@dataclass(frozen=True, kw_only=True)
class Association:
    """How one measure or hyperparameter goes with the generalization gap.

    `adjusted_p` is τ's p-value after Holm over the group's associations. `weighted` holds the sign-errors on
    the gap of accuracies with Dziugaite's weights, `environments` the plain ones on the gap of losses.
    """

    group: str
    kind: str
    name: str
    convention: str
    kendall: Kendall
    adjusted_p: float | None
    by_precision: dict[str, Kendall]
    granulated: Granulated
    environments: tuple[Environment, ...]
    weighted: tuple[Environment, ...]


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to analyze."""

    resampling: Resampling = field(default_factory=Resampling)
    margins: Margins = field(default_factory=Margins)


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What a sweep's results say so far; `done` of `expected` trainings, `left_out` of which diverged."""

    sweep: str
    expected: int
    done: int
    left_out: int
    outside: tuple[str, ...]
    """Models that count although a loss of theirs is outside of reason (`reports.outliers`), by identity."""
    options: Options
    associations: tuple[Association, ...]
    comparisons: tuple[tuple[str, Paired], ...]
    claims: tuple[Claim, ...]
    flat_or_sharp: tuple[FlatOrSharp, ...] = ()
    """Of each group with quantized and sharpness-aware models and measures of their flatness."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Models:
    """The finite models of one data set and one family of networks, indexed by job."""

    group: str
    runs: pd.DataFrame
    grid: pd.DataFrame
    configuration: pd.Series

    def table(self, metric: str) -> pd.DataFrame:
        """One row a configuration, one column a `Quantization`."""
        return matched(self.runs[metric], self.runs["quantization"], self.configuration)

    def methods(self) -> Methods:
        """The same models by the methods that they were trained by."""
        bare: Any = self.runs.drop(columns=[*METHOD.known(), "quantization"], errors="ignore").to_dict("records")
        called: Any = quantizations(bare)
        return Methods(
            group=self.group,
            runs=self.runs,
            method=methods_of(self.runs),
            beside=_configurations(self.runs, METHOD.known()),
            quantization=pd.Series(called, self.runs.index, object),
            configuration=self.configuration,
        )

    def variants(self) -> list[Models]:
        """The models of each variant, which differ in the bits of their weights alone, beside full precision; of
        variants without any quantized model only if there are no others."""
        called = sorted(set(self.runs["quantization"]))
        quantized = {one.variant for one in called if not one.is_full}
        variants = sorted(quantized or {one.variant for one in called if one != FULL} or {FULL.variant})
        return [self._of(called, variant, several=len(variants) > 1) for variant in variants]

    def _of(self, called: Sequence[Quantization], variant: object, *, several: bool) -> Models:
        mine = [one for one in called if one.variant == variant]
        if not any(one.is_full for one in mine):
            mine.insert(0, FULL)
        runs = self.runs[self.runs["quantization"].isin(mine)]
        named = f"{self.group} ({', '.join(map(str, mine))})" if several else self.group
        grid, configuration = self.grid.loc[runs.index], self.configuration[runs.index]
        return Models(group=named, runs=runs, grid=grid, configuration=configuration)


def analyze(
    title: str,
    spec: Spec,
    runs: pd.DataFrame,
    measures: pd.DataFrame,
    layers: pd.DataFrame,
    options: Options | None = None,
    *,
    groups: Sequence[Models] | None = None,
    quantizations: pd.DataFrame | None = None,
) -> Analysis:
    """Analyze the committed rows of `runs`, `measures`, `layers` and, where models were quantized on images,
    `quantizations` of the sweep `spec`, in any order.

    `groups` are those of `group_models` over the finite runs, if they are there already.
    """
    options = options or Options()
    known = finite_runs(runs)
    associations: list[Association] = []
    comparisons: list[tuple[str, Paired]] = []
    claims: list[Claim] = []
    answers: list[FlatOrSharp] = []
    flatness = flatness_quantities(spec, measures)
    for models in group_models(spec, known) if groups is None else groups:
        associations += _associate(models, spec, measures, options.resampling)
        tables = {metric: models.table(metric) for metric in METRICS}
        paired = [one for metric, better in METRICS.items() for one in compare(tables[metric], metric, better)]
        comparisons += [(models.group, one) for one in adjust(paired, tables)]
        methods = models.methods()
        claims += _marked(judge(methods, flatness), models, spec, runs, measures)
        variants = models.variants()
        for variant in variants:
            judged = _judge(variant, flatness, layers, options)
            told = [one for one in judged if len(variants) == 1 or one.verdict is not Verdict.NO_DATA]
            claims += _marked(told, variant, spec, runs, measures)
        if quantizations is not None:
            first = models.runs.iloc[0]
            mine = quantizations[(quantizations["data"] == first["data"]) & (quantizations["model"] == first["model"])]
            judged = judge_on_images(spec, mine, measures, options.resampling, group=models.group)
            claims += _marked(judged, models, spec, runs, measures)
        if (answer := flat_or_sharp(methods, flatness)) is not None:
            answers.append(answer)
    return Analysis(
        sweep=title,
        expected=len(spec.trainings()),
        done=len(runs),
        left_out=len(runs) - len(known),
        outside=tuple(sorted(str(run["job"]) for run in known.to_dict("records") if is_outside(run, run))),
        options=options,
        associations=tuple(associations),
        comparisons=tuple(comparisons),
        claims=tuple(claims),
        flat_or_sharp=tuple(answers),
    )


def finite_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that every average counts: neither diverged, nor with a value that overflowed."""
    return runs[~runs["diverged"].astype(bool) & runs[list(METRICS)].notna().all(axis=1)]


def group_models(spec: Spec, runs: pd.DataFrame) -> Iterator[Models]:
    """The models by data set and family of networks, each group sorted by job."""
    ordered = runs.set_index("job").sort_index()
    for (_, model), group in ordered.groupby(["data", "model"], sort=True):
        yield Models(
            group=f"{data_of(group.iloc[0].to_dict()).title} {_family(str(model))}",
            runs=_called(group),
            grid=place_in_grid(group, spec.axes),
            configuration=_configurations(group, naming_settings()),
        )


def _called(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with what each of their models is called beside the others, as `quantization`."""
    rows: Any = runs.to_dict("records")
    names: Any = quantizations(rows)
    return runs.assign(quantization=pd.Series(names, runs.index, object))


def _family(model: str) -> str:
    """What a family of networks is called."""
    component = PARTS["model"].components.get(model)  # none of a module of the user, which is a family by itself
    return model if component is None else str(getattr(component.settings, "family", model))


def _configurations(runs: pd.DataFrame, but: frozenset[str]) -> pd.Series:
    """Every setting but these, as one text a model: equal for models to compare."""
    others = Training.known() - but
    columns = [texts_of(runs[name]) for name in runs.columns if name in others]
    return pd.Series([json.dumps(row) for row in zip(*columns, strict=True)], index=runs.index)


def _associate(models: Models, spec: Spec, measures: pd.DataFrame, resampling: Resampling) -> list[Association]:
    names = [name for name in hyperparameters(spec.axes) if models.grid[name].nunique() > 1]
    found = [("measure", one) for one in quantities(spec, models.runs, measures)]
    found += [
        ("hyperparameter", Quantity(name=name, convention="", values=models.grid[name].astype(float)))
        for name in names
        if is_ordered(name)
    ]
    lines = lines_of(models.grid, names)
    raw = [_association(kind, one, models, lines, resampling) for kind, one in found]
    adjusted = holm([one.kendall.p_value for one in raw])
    return [_with_adjusted(one, p_value) for one, p_value in zip(raw, adjusted, strict=True)]


def _with_adjusted(association: Association, p_value: float | None) -> Association:
    return replace(association, adjusted_p=p_value)


def _association(
    kind: str, quantity: Quantity, models: Models, lines: Sequence[Lines], resampling: Resampling
) -> Association:
    values = quantity.values.reindex(models.runs.index)
    gap = models.runs[GAP]
    own = [line for line in lines if kind == "measure" or line.hyperparameter == quantity.name]
    accuracy_gap = models.runs["train_accuracy"] - models.runs["test_accuracy"]
    images = data_of(models.runs.iloc[0].to_dict()).test_images
    called = models.runs["quantization"]
    return Association(
        group=models.group,
        kind=kind,
        name=quantity.name,
        convention=quantity.convention,
        kendall=kendall(values, gap, resampling),
        adjusted_p=None,
        by_precision={
            str(one): kendall(values[called == one], gap[called == one], resampling) for one in sorted(set(called))
        },
        granulated=granulate(values, gap, own),
        environments=tuple(sign_errors(values, gap, own)),
        weighted=tuple(sign_errors(values, accuracy_gap, own, test_images=images)),
    )


def _judge(models: Models, flatness: Sequence[Quantity], layers: pd.DataFrame, options: Options) -> list[Claim]:
    group = models.group
    gap, loss, steps = models.table(GAP), models.table("train_loss"), _step_sizes(models, layers)
    return [
        trend(GAP_SHRINKS, gap, quantity="gap", group=group, grows=False),
        trend(LOSS_GROWS, loss, quantity="train loss", group=group, grows=True),
        eight_bits_equal({metric: models.table(metric) for metric in METRICS}, group=group, margins=options.margins),
        flatter(flatness, models.runs["quantization"], models.configuration, group=group),
        trend(STEPS_GROW, steps, quantity="mean log₁₀ s", group=group, grows=True),
    ]


def _marked(
    claims: Sequence[Claim], models: Models, spec: Spec, runs: pd.DataFrame, measures: pd.DataFrame
) -> list[Claim]:
    """The claims about one group, each with a note where its part of the sweep is not complete.

    Jobs run in the order of their cost, so those that are done are no random part of the sweep.
    """
    first = models.runs.iloc[0]
    jobs = [job for job in spec.jobs() if _is_of(job, first)]
    trained = {job.identity for job in jobs if "runs" in job.kind.rows}
    measured = {job.identity for job in jobs if "measures" in job.kind.rows}
    notes = [_partial(trained, runs, "models"), _partial(measured, measures, "measures")]
    return [
        replace(claim, note="; ".join(note for note in (notes if claim.name in MEASURED else notes[:1]) if note))
        for claim in claims
    ]


def _is_of(job: Job, run: pd.Series) -> bool:
    settings = job.training.settings()
    return bool(settings["data"] == run["data"] and settings["model"] == run["model"])


def _partial(expected: set[str], rows: pd.DataFrame, what: str) -> str:
    done = len(expected.intersection(rows["job"]))
    return "" if done >= len(expected) else f"partial: {done} of {len(expected)} {what}, not a random part"


def _step_sizes(models: Models, layers: pd.DataFrame) -> pd.DataFrame:
    """One row a configuration, one column a `Quantization`: the mean log10 step size of the inner layers.

    The layers at `outer_bits` are as wide in every model, and left out.
    """
    called = models.runs["quantization"]
    rows = layers[layers["job"].isin(called.index) & layers["step_size"].notna()]
    last = rows.groupby("job")["index"].transform("max")
    inner = rows[(rows["index"] > 0) & (rows["index"] < last)]
    logarithms = inner["step_size"].astype(float).map(math.log10).groupby(inner["job"]).mean()
    return matched(logarithms.reindex(called.index), called, models.configuration)
