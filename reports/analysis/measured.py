"""The quantities of each trained model that may explain its generalization gap."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from qsweep.reports.flatness import COLUMNS, PREFIX, convention_name, varying_settings
from qsweep.sweeps.kinds import TRAIN, Kind
from qsweep.sweeps.spec import Spec

OF_RUN = ("weight_norm", "distance", "train_loss")
"""‖w‖₂, ‖w − w₀‖₂ and the training loss, which every run has."""

NO_NOISE = "– · "
"""How the convention of sharpness begins, which draws no noise."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantity:
    """One quantity, by job of the trained model. `convention` and `saturated` are those of a flatness measure."""

    name: str
    convention: str
    values: pd.Series
    saturated: pd.Series | None = None

    @property
    def label(self) -> str:
        return f"{self.name} ({self.convention})" if self.convention else self.name


def quantities(spec: Spec, runs: pd.DataFrame, measures: pd.DataFrame) -> list[Quantity]:
    """Those of the runs, and then each flatness measure under each declared convention that any model has.

    `runs` is indexed by job; diverged models and searches are missing values.
    """
    found = [Quantity(name=name, convention="", values=runs[name]) for name in OF_RUN if runs[name].notna().any()]
    return found + flatness_quantities(spec, measures)


def flatness_quantities(spec: Spec, measures: pd.DataFrame, kind: Kind = TRAIN) -> list[Quantity]:
    """Each declared flatness measure (`pac_mag_init`, …) under its convention, by the job of a kind that made the
    model."""
    declared = spec.flatness_measures()
    varying = varying_settings(declared)
    rows = measures[~measures["diverged"].fillna(value=True).astype(bool)].set_index("job")
    parents = spec.measured(kind) if declared else []
    found = []
    for measure in declared:
        children = {parent.identity: spec.child(parent, measure).identity for parent in parents}
        here = {parent: child for parent, child in children.items() if child in rows.index}
        if not here:
            continue
        taken = rows.loc[list(here.values())].set_axis(list(here))
        found += [
            Quantity(
                name=f"{PREFIX[measure.name, measure.scaling]}_{name}",
                convention=convention_name(measure, varying).removeprefix(NO_NOISE),
                values=taken[column].astype(float),
                saturated=taken["saturated"].astype(bool),
            )
            for name, column in COLUMNS.items()
        ]
    return found
