"""What figures and the report draw: small frames computed from a sweep's rows, in any order of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from qsweep.reports.analysis.analysis import Models
from qsweep.reports.analysis.coordinates import hyperparameters
from qsweep.reports.analysis.pairing import matched
from qsweep.reports.declaration import find_table
from qsweep.reports.labels import SAID, network_title
from qsweep.reports.quantization import FULL, Quantization
from qsweep.reports.source import Source
from qsweep.sweeps.components import PARTS, naming_settings
from qsweep.sweeps.corruptions import CORRUPTIONS
from qsweep.sweeps.settings import Setting
from qsweep.sweeps.spec import Axis

if TYPE_CHECKING:
    from pandas.api.typing import SeriesGroupBy

BAND = (0.1, 0.9)
"""Quantiles between which a band is drawn."""
BOX = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Quantiles of a box: ends of the whiskers, of the box, and the median."""
NORMAL = 1.96
BINS = (8, 60)
"""Fewest and most bins of a throughput; one for about four cohorts."""
POINTS = 400
UNITS = (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0), ("s", 1.0))


@dataclass(frozen=True, kw_only=True)
class Box:
    """A distribution in seven numbers. `quantiles` as in BOX."""

    count: int
    mean: float
    quantiles: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """How many jobs were done when. Times are in `unit`s since the first attempt began, at `start` (UTC).

    `done` is cumulative at `times`; `rates` are jobs per minute in the bins between `edges`. Both by kind of job.
    """

    start: pd.Timestamp
    unit: str
    times: list[float]
    done: dict[str, list[int]]
    edges: list[float]
    rates: dict[str, list[float]]


@dataclass(frozen=True, kw_only=True)
class Effect:
    """The mean of a metric at each value of one hyperparameter, of models that are called alike, with its error."""

    hyperparameter: str
    labels: tuple[str, ...]
    quantization: Quantization
    means: tuple[float | None, ...]
    errors: tuple[float | None, ...]
    counts: tuple[int, ...]


def box(values: pd.Series) -> Box:
    """Of the values that are there; at least one is."""
    known = values.dropna()
    return Box(
        count=len(known),
        mean=float(known.mean()),
        quantiles=tuple(float(one) for one in known.quantile(list(BOX))),
    )


def timeline(attempts: pd.DataFrame, kinds: pd.Series) -> Timeline | None:
    """From the attempts that ended a job (`outcome` is done and nothing superseded them); None without one.

    `kinds` is the kind of each job, by job.
    """
    done = attempts[(attempts["outcome"] == "done") & attempts["superseded"].isna()]
    if done.empty:
        return None
    start = attempts["started_at"].min()
    seconds = (done["ended_at"] - start).dt.total_seconds().to_numpy(dtype=np.float64)
    longest = max(float(seconds.max()), 1.0)
    unit, size = unit_of(longest)
    scaled = np.sort(seconds) / size
    times = np.unique(np.concatenate([[0.0], scaled]))
    cohorts = done["started_at"].dt.round("1s").groupby(done["agent"]).nunique().sum()
    bins = int(np.clip(cohorts // 4, *BINS))
    edges = np.linspace(0.0, longest / size, bins + 1)
    if len(times) > POINTS:
        times = np.linspace(0.0, longest / size, POINTS)
    kind = done["job"].map(kinds).to_numpy()
    per_minute = 60.0 / (longest / bins)
    counts = {name: np.sort(seconds[kind == name]) / size for name in sorted(set(kind), reverse=True)}
    return Timeline(
        start=start,
        unit=unit,
        times=times.tolist(),
        done={name: np.searchsorted(one, times * (1 + 1e-12), side="right").tolist() for name, one in counts.items()},
        edges=edges.tolist(),
        rates={name: (np.histogram(one, edges)[0] * per_minute).tolist() for name, one in counts.items()},
    )


def unit_of(seconds: float) -> tuple[str, float]:
    """The unit in which a time axis of that length is read, and its seconds."""
    return next((one for one in UNITS if seconds >= 2 * one[1]), UNITS[-1])


def told(source: Source, jobs: Collection[str]) -> pd.DataFrame:
    """What these jobs have said of themselves so far, done or not: `job`, `step` (or epoch), `name`, `value`. Of long
    curves, POINTS steps."""
    if source.spec.calls:
        rows: pd.DataFrame = source.read("logged", ["job", "step", "name", "value"]).to_pandas()
    else:
        epochs = source.look("epochs", ["job", "epoch", *SAID]).to_pandas()
        rows = epochs.rename(columns={"epoch": "step"}).melt(["job", "step"], list(SAID), "name", "value")
    rows = rows[rows["job"].isin(jobs)].dropna(subset=["value"])
    steps = np.unique(rows["step"])
    if len(steps) > POINTS:
        rows = rows[rows["step"].isin(steps[np.linspace(0, len(steps) - 1, POINTS).round().astype(int)])]
    return rows


def curves(epochs: pd.DataFrame, models: Models, metric: str) -> pd.DataFrame:
    """Quantiles of a metric over models that are called alike, at each epoch: `quantization`, `epoch`, `low`,
    `median`, `high`."""
    rows = epochs[epochs["job"].isin(models.runs.index)]
    called = rows["job"].map(models.runs["quantization"]).rename("quantization")
    grouped = rows.groupby([called, "epoch"], sort=True)[metric]
    return spread_of(grouped).reset_index().dropna()


def spread_of(grouped: SeriesGroupBy[Any, Any]) -> pd.DataFrame:
    """The quantiles `low`, `median` and `high` of each group, of which there may be none."""
    asked = pd.Index([BAND[0], 0.5, BAND[1]])
    found = grouped.quantile(asked).unstack().reindex(columns=asked)
    found.columns = pd.Index(["low", "median", "high"])
    return found


def by_quantization(rows: pd.DataFrame) -> list[tuple[Quantization, pd.DataFrame]]:
    """The rows of models that are called alike, in order of their names: full precision first."""
    return [(one, rows[rows["quantization"] == one]) for one in sorted(set(rows["quantization"]))]


def effects(models: Models, axes: Sequence[Axis], metric: str) -> list[Effect]:
    """The effect of each hyperparameter on a metric, but for those that models are called by."""
    found = []
    by_name = {axis.name: axis for axis in axes}
    groups = by_quantization(models.runs[["quantization", metric]])
    for name in hyperparameters(axes):
        if name in naming_settings() or models.grid[name].nunique() < 2:
            continue
        labels = value_labels(by_name[name])
        for quantization, group in groups:
            values = group[metric].groupby(models.grid.loc[group.index, name])
            means, errors, counts = values.mean(), values.sem(), values.count()
            found.append(
                Effect(
                    hyperparameter=name,
                    labels=labels,
                    quantization=quantization,
                    means=tuple(_at(means, one) for one in range(len(labels))),
                    errors=tuple(_at(errors, one) for one in range(len(labels))),
                    counts=tuple(int(counts.get(one, 0)) for one in range(len(labels))),
                )
            )
    return sorted(found, key=lambda one: (hyperparameters(axes).index(one.hyperparameter), one.quantization))


def value_labels(axis: Axis) -> tuple[str, ...]:
    """What the positions on an axis are called: its values, or ranks where they depend on another setting."""
    if axis.by is None:
        return tuple(_text(value) for value in _in_order(axis.values))
    longest = max(len(set(values)) for _, values in axis.branches)
    if longest == 3:
        return ("low", "middle", "high")
    return tuple(f"{rank + 1} of {longest}" for rank in range(longest))


def step_sizes(layers: pd.DataFrame, models: Models) -> pd.DataFrame:
    """Quantiles of the learned step size of each layer, over the models of a network that are called alike.

    Columns `network`, `quantization`, `index`, `layer`, `low`, `median`, `high`, `models`. Networks of different shape
    have different layers, so each stands alone.
    """
    rows = layers[layers["job"].isin(models.runs.index) & layers["step_size"].notna()]
    if rows.empty:
        return pd.DataFrame(columns=["network", "quantization", "index", "layer", "low", "median", "high", "models"])
    shapes = networks(models)
    keyed = rows.assign(network=rows["job"].map(shapes), quantization=rows["job"].map(models.runs["quantization"]))
    grouped = keyed.groupby(["network", "quantization", "index", "layer"], sort=True)["step_size"]
    counted = spread_of(grouped).assign(models=grouped.count()).reset_index()
    sizes = counted["network"].map(lambda name: tuple(map(float, re.findall(r"\d+(?:\.\d+)?", name))))
    return counted.assign(size=sizes).sort_values(["size", "network", "quantization", "index"]).drop(columns=["size"])


NETWORK = ("model", *sorted(PARTS["model"].known() - {"model"}))
"""Columns of the runs that make a network."""
DISTORTED = ["network", "place", "severity"]
"""What the cells of a heat map differ in, beside what the models are called."""


def distorted(distortions: pd.DataFrame, models: Models) -> pd.DataFrame:
    """The gap under each corruption of each network: its mean, and its mean difference from full precision.

    Columns `network`, `quantization`, `corruption`, `severity`, `gap`, `difference` and `pairs`, the matched
    configurations that the difference is over; a corruption is in place `place` of the paper's order.
    """
    rows = distortions[distortions["parent"].isin(models.runs.index) & distortions["generalization_gap"].notna()]
    shapes = networks(models, find_table("table6").usual_widths)
    keyed = rows.assign(network=rows["parent"].map(shapes), place=rows["corruption"].map(CORRUPTIONS.index))
    found = []
    for _, group in keyed.groupby(DISTORTED, sort=True):
        gaps = group.groupby("parent")["generalization_gap"].mean()
        table = matched(gaps, models.runs["quantization"][gaps.index], models.configuration[gaps.index])
        full = table[FULL] if FULL in table else pd.Series(np.nan, index=table.index)
        differences = table.sub(full, axis=0)
        one = pd.DataFrame({"gap": table.mean(), "difference": differences.mean(), "pairs": differences.count()})
        keys = pd.concat([group[DISTORTED].head(1)] * len(one), ignore_index=True)
        found.append(one.rename_axis("quantization").reset_index().join(keys))
    if not found:
        return pd.DataFrame(columns=[*DISTORTED, "corruption", "quantization", "gap", "difference", "pairs"])
    grid = pd.concat(found, ignore_index=True)
    return grid.assign(corruption=[CORRUPTIONS[place] for place in grid["place"]])


def networks(models: Models, usual: Mapping[str, int] | None = None) -> pd.Series:
    """The network of each model, by job, as the tables call it: `NiN (3x10)`, `ResNet-18 (width 4)`.

    `usual` are the widths at which a family of networks bears its name alone, where a table has its own.
    """
    names = [name for name in NETWORK if name in models.runs]
    found: dict[tuple[str, ...], str] = {}
    titles = []
    for row in models.runs[names].to_dict("records"):
        settings = {str(name): _whole(value) for name, value in row.items() if np.ndim(value) or not pd.isna(value)}
        key = tuple(map(str, sorted(settings.items())))
        if key not in found:
            found[key] = network_title(PARTS["model"].build(settings, None), usual or {})
        titles.append(found[key])
    return pd.Series(titles, index=models.runs.index, dtype=object)


def _whole(value: Any) -> Any:
    """A value of a frame as the setting that it was: a column with gaps holds floats, one of lists holds arrays."""
    if np.ndim(value):
        return tuple(np.asarray(value).tolist())
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _in_order(values: Sequence[Setting]) -> list[Setting]:
    distinct = list(dict.fromkeys(values))
    if all(isinstance(value, int | float) for value in distinct):
        return sorted(distinct)
    return distinct


def _text(value: Setting) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _at(values: pd.Series, position: int) -> float | None:
    value = values.get(position)
    return None if value is None or not np.isfinite(value) else float(value)
