"""What SADAG rests on, of models that were quantized on images: whether its images lead to flatter models, and whether
flatter ones are more accurate."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from qsweep.reports.analysis.claims import SADAG, Claim, Number, Statement, Verdict, number_of, together
from qsweep.reports.analysis.correlation import Resampling, kendall
from qsweep.reports.analysis.measured import Quantity, flatness_quantities
from qsweep.reports.analysis.pairing import ALPHA, holm, matched, simultaneous
from qsweep.reports.frames import texts_of
from qsweep.reports.quantization import quantization_of
from qsweep.sweeps.kinds import QUANTIZATION
from qsweep.sweeps.settings import names_of
from qsweep.sweeps.spec import Spec
from qsweep.sweeps.training import Training
from qsweep.sweeps.zero_shot import Noise, Reconstruction

FLATTER_IMAGES = Statement(
    name="sadag-is-flatter", text="Models that are quantized on SADAG's images are flatter than on Genie's", where=SADAG
)
FLATTER_IS_BETTER = Statement(
    name="flatter-is-more-accurate", text="The flatter a model that is quantized on images, the more accurate it is",
    where=SADAG,
)  # fmt: skip
SHARPNESS = "flatness"
"""How the columns of measures end that hold 1/σ² or 1/α²: larger is sharper, and no norm is in them."""
FEWEST = 5
"""Models of one precision and rounding from which their τ is shown by itself: of fewer none is significant."""


def judge_on_images(
    spec: Spec, quantizations: pd.DataFrame, measures: pd.DataFrame, resampling: Resampling, *, group: str
) -> list[Claim]:
    """Both claims about the rows of `quantizations` of one group; none where no flatness of theirs was measured."""
    models = quantizations[~quantizations["diverged"].fillna(value=True).astype(bool)].set_index("job").sort_index()
    found = [one for one in flatness_quantities(spec, measures, QUANTIZATION) if one.name.endswith(SHARPNESS)]
    known = [one for one in found if one.values.index.isin(models.index).any()]
    if not known:
        return []
    return [_flatter_images(models, known, group), _flatter_is_better(models, known, resampling, group)]


def _flatter_images(models: pd.DataFrame, quantities: Sequence[Quantity], group: str) -> Claim:
    """The sharpness by images, precision and rounding; and SADAG's against Genie's in models that differ in nothing
    else."""
    called = _called(models)
    means, labels, samples = list[Number](), list[str](), list[np.ndarray]()
    for quantity in quantities:
        values = quantity.values.reindex(models.index)
        for name, own in values.dropna().groupby(called):
            note = f"n = {len(own)}{_bounds(quantity, own)}"
            means.append(Number(label=f"{quantity.label} at {name}", value=float(own.mean()), note=note))
        table = matched(values, models["images"], _configurations(models))
        if {"sadag", "genie"} <= set(table.columns):
            both = table[["sadag", "genie"]].dropna()
            if len(both):
                labels.append(f"{quantity.label}: sadag − genie")
                samples.append((both["sadag"] - both["genie"]).to_numpy(dtype=np.float64))
    if not samples:
        reason = "No two models differ in these images alone."
        return FLATTER_IMAGES.judged(group, Verdict.NO_DATA, reason, means)
    numbers = [
        number_of(label, shift, towards=-1, note=f"flatter in {int((sample < 0).sum())} of {len(sample)}")
        for label, sample, shift in zip(labels, samples, simultaneous(samples), strict=True)
    ]
    verdicts = [one.verdict or Verdict.UNDECIDED for one in numbers]
    reason = (
        f"Significantly flatter by {verdicts.count(Verdict.SUPPORTED)} of {len(numbers)} measures, "
        f"sharper by {verdicts.count(Verdict.CONTRADICTED)}, over {len(samples[0])} pairs."
    )
    return FLATTER_IMAGES.judged(group, together(verdicts), reason, [*means, *numbers])


def _flatter_is_better(
    models: pd.DataFrame, quantities: Sequence[Quantity], resampling: Resampling, group: str
) -> Claim:
    """Kendall's τ of sharpness and test accuracy: over all models, and over those of one precision and rounding."""
    whole, parts = list[Number](), list[Number]()
    for quantity in quantities:
        numbers = list(_taus(models, quantity, resampling))
        whole.append(numbers[0])
        parts += numbers[1:]
    whole, parts = _adjusted(whole), _adjusted(parts)
    verdicts = [one.verdict or Verdict.UNDECIDED for one in whole]
    yes, no = verdicts.count(Verdict.SUPPORTED), verdicts.count(Verdict.CONTRADICTED)
    reason = (
        "SADAG rests on it without showing it. Over all models the sharper are significantly less accurate by "
        f"{yes} of {len(whole)} measures, more accurate by {no}"
    )
    own = [one.verdict for one in parts]
    reason += (
        f"; at equal bits and rounding less accurate in {own.count(Verdict.SUPPORTED)} "
        f"of {len(parts)} comparisons, more in {own.count(Verdict.CONTRADICTED)}."
        if parts
        else "; at equal bits and rounding there are too few models for a comparison."
    )
    return FLATTER_IS_BETTER.judged(group, together(verdicts), reason, [*whole, *parts])


def _taus(models: pd.DataFrame, quantity: Quantity, resampling: Resampling) -> Iterator[Number]:
    """τ over all models first."""
    values = quantity.values.reindex(models.index)
    known = models[values.notna()]
    parts = [("all models", known)]
    parts += [
        (str(name), own)
        for name, own in known.groupby(_called(known, images=False))
        if len(own) >= FEWEST and len(own) < len(known)
    ]
    for name, own in parts:
        found = kendall(values[own.index], own["test_accuracy"], resampling)
        yield Number(
            label=f"τ of {quantity.label}, {name}",
            value=float("nan") if found.tau is None else found.tau,
            p_value=found.p_value,
            note=f"n = {found.models}{_bounds(quantity, own)}",
            method=f"{found.method} Kendall's τ" if found.method else "",
        )


def _bounds(quantity: Quantity, models: pd.Series | pd.DataFrame) -> str:
    """How many of these models' values are bounds only, because their search ended at an end of its interval."""
    assert quantity.saturated is not None
    count = int(quantity.saturated.reindex(models.index).fillna(value=False).astype(bool).sum())
    return f", {count} saturated" if count else ""


def _adjusted(numbers: Sequence[Number]) -> list[Number]:
    """With p-values after Holm, and the verdicts that they give: the claim is that τ is below 0."""
    found = []
    for one, p_value in zip(numbers, holm([one.p_value for one in numbers]), strict=True):
        decided = p_value is not None and p_value <= ALPHA
        verdict = (Verdict.SUPPORTED if one.value < 0 else Verdict.CONTRADICTED) if decided else Verdict.UNDECIDED
        found.append(Number(label=one.label, value=one.value, p_value=p_value, verdict=verdict, note=one.note,
                            method=one.method))  # fmt: skip
    return found


def _called(models: pd.DataFrame, *, images: bool = True) -> pd.Series:
    """What each model is called: `W2A2 · genie · reconstruction`, or without its images."""
    names = []
    for row in models.to_dict("records"):
        one = quantization_of({str(name): value for name, value in row.items()})
        precision, by, rounding = str(one).split(" · ")
        names.append(" · ".join((precision, by, rounding) if images else (precision, rounding)))
    return pd.Series(names, models.index, object)


def _configurations(models: pd.DataFrame) -> pd.Series:
    """Every setting that models on any images have, as one text a model."""
    names = Training.known() | {"rounding", *names_of(Reconstruction), *names_of(Noise)}
    columns = [texts_of(models[name]) for name in models.columns if name in names]
    return pd.Series([json.dumps(row) for row in zip(*columns, strict=True)], index=models.index)
