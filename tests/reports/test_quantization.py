"""Models are called by their components; models that differ in any of them are never averaged in silence."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest

from qsweep.reports.analysis.analysis import GAP, Options, finite_runs, group_models
from qsweep.reports.analysis.correlation import Resampling
from qsweep.reports.analysis.text import render_analysis
from qsweep.reports.answers import make_tables
from qsweep.reports.declaration import parse_table
from qsweep.reports.evidence import gather
from qsweep.reports.formats import Format
from qsweep.reports.quantization import FULL, Quantization, quantization_of, quantizations, series_names
from qsweep.reports.render import Layout, render
from qsweep.reports.table import Table, make_table
from qsweep.sweeps.components import PARTS, register, used_settings
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.job import Job
from qsweep.sweeps.parts import Component
from qsweep.sweeps.training import Training
from tests.reports.drawn import MadeSource, made_source
from tests.sweeps.test_components import Rounded, Sharp
from tests.sweeps.test_identity import BASE

OUTER = "outer_bits=[8,4]"
SMALL = "depth == 2 and width == 8 and weight_decay == 0"
ROUNDED = {"activation_quantizer": "rounded", "activation_bits": 4}


@pytest.fixture(autouse=True, scope="module")
def more() -> Iterator[None]:
    """An activation quantizer and a second method."""
    register("activation_quantizer", Component(name="rounded", settings=Rounded, label=""))
    register("method", Component(name="sharp", settings=Sharp, label="SAM"))
    yield
    del PARTS["activation_quantizer"].components["rounded"]
    del PARTS["method"].components["sharp"]
    used_settings.cache_clear()


@pytest.fixture(scope="module")
def source() -> MadeSource:
    """The digits grid with two widths of the outer layers."""
    return made_source(changes=(OUTER,), where=SMALL)


def settings(**changes: Any) -> dict[str, Any]:
    return dict(Job(training=Training.from_settings({**BASE, **changes})).settings())


CALLED = {
    "FP32": {"bits": 32},
    "Int4": {"bits": 4},
    "Int2": {"bits": 2},
    "W8A4": {"bits": 8, **ROUNDED},
    "W4A4": {"bits": 4, **ROUNDED},
    "FP32 · SAM": {"bits": 32, "method": "sharp"},
    "Int4 · SAM": {"bits": 4, "method": "sharp"},
    "W4A4 · SAM": {"bits": 4, "method": "sharp", **ROUNDED},
}
"""In the order in which they are shown."""


@pytest.mark.parametrize("called", CALLED)
def test_a_model_is_called_by_its_components(called: str) -> None:
    assert str(quantization_of(settings(**CALLED[called]))) == called


@pytest.mark.parametrize(
    ("called", "changes"),
    [
        ("Int4 · VVTQ", {"quantizer": "vvtq"}),
        ("W4A4 · VVTQ", {"quantizer": "vvtq", "activation_quantizer": "vvtq", "activation_bits": 4}),
        ("W4A4 · VVTQ weights", {"quantizer": "vvtq", "activation_bits": 4}),
        ("W4A4 · VVTQ activations", {"activation_quantizer": "vvtq", "activation_bits": 4}),
        ("W4A4", {"activation_bits": 4}),
        (
            "W4A3 · LIQ · SAM",
            {"quantizer": "liq", "activation_quantizer": "liq", "activation_bits": 3, "method": "sharp"},
        ),
    ],
)
def test_quantizers_of_one_name_are_named_once(called: str, changes: dict[str, Any]) -> None:
    assert str(quantization_of(settings(bits=4, **changes))) == called


def test_full_precision_comes_first_and_each_variant_by_itself() -> None:
    rows = [settings(**changes) for changes in reversed(CALLED.values())]
    assert [str(one) for one in sorted(quantizations(rows))] == list(CALLED)


def test_what_is_shown_together_has_a_look_of_its_own_and_a_colour_by_its_bits() -> None:
    found = quantizations([settings(**changes) for changes in CALLED.values()])
    assert len({(one.colour, one.marker) for one in found}) == len({one.slot for one in found}) == len(CALLED)
    assert {one.colour for one in found if one.bits == 4} == {Quantization(bits=4, slot=2).colour}
    names = series_names(found)
    assert [names[one.slot] for one in found] == list(CALLED)
    assert names[:8] == ["FP32", "Int8", "Int4", "Int2", "Int3", "Int5", "Int6", "Int7"]


def test_models_that_would_share_a_name_are_told_apart_by_what_they_differ_in() -> None:
    rows = [settings(bits=4), settings(bits=4, outer_bits=4), settings(bits=2, outer_bits=4), settings(bits=32)]
    assert [str(one) for one in quantizations(rows)] == ["Int4 · outer_bits 8", "Int4 · outer_bits 4", "Int2", "FP32"]
    assert (
        str(quantizations([settings(method="sharp"), settings(method="sharp", rho=0.2)])[1]) == "Int2 · SAM · rho 0.2"
    )


def table_of(jobs: dict[str, dict[str, Any]], losses: dict[str, float], rows: list[str], **more: Any) -> Table:
    content = {"title": "Own", "kind": "runs", "rows": rows,
               "columns": [{"name": "loss", "label": "Loss", "value": "train_loss", "decimals": 3}]}  # fmt: skip
    results = [{"job": job, "diverged": False, "train_loss": loss, "test_loss": loss} for job, loss in losses.items()]
    return make_table(parse_table(content | more, "own.toml"), heading="own", jobs=jobs, results=results)


def test_weights_and_activations_at_4_bits_are_not_averaged_into_int4() -> None:
    jobs = {called: settings(**changes) for called, changes in CALLED.items()}
    made = table_of(jobs, {called: float(place) for place, called in enumerate(CALLED)}, ["precision"])
    assert {row.keys[0]: row.cells[0].mean for row in made.rows} == {name: place for place, name in enumerate(CALLED)}
    assert [row.keys[0] for row in made.rows] == list(CALLED)


def test_a_row_without_a_method_has_the_plain_one() -> None:
    made = table_of({"a": settings(), "b": settings(method="sharp")}, {"a": 1.0, "b": 2.0}, ["method"])
    assert [row.keys for row in made.rows] == [("plain",), ("sharp",)]


def test_what_a_row_averages_over_stands_in_the_footnote() -> None:
    jobs = {"a": settings(bits=4), "b": settings(bits=4, outer_bits=4), "c": settings(bits=2, seed=1)}
    made = table_of(jobs, {"a": 1.0, "b": 2.0, "c": 3.0}, ["precision"])
    assert "1 of 2 rows (Int4) are means over outer_bits 4, 8." in render(made, Format.MARKDOWN, Layout())
    by_row = list(csv.DictReader(io.StringIO(render(made, Format.CSV, Layout()))))
    assert [row["averaged_over"] for row in by_row] == ["outer_bits 4, 8", ""]


def test_what_a_table_declares_to_average_over_or_to_group_by_needs_no_footnote() -> None:
    jobs = {"a": settings(outer_bits=8, seed=1), "b": settings(outer_bits=4, seed=2)}
    losses = {"a": 1.0, "b": 2.0}
    for rows, more in ((["precision", "outer_bits"], {}), (["precision"], {"averages": ["outer_bits", "seed"]})):
        made = table_of(jobs, losses, rows, **more)
        assert not any(row.averaged for row in made.rows)
        assert "averaged_over" not in render(made, Format.CSV, Layout())
    with pytest.raises(InputError, match="averages: 'bit' is not a setting"):
        table_of(jobs, losses, ["precision"], averages=["bit"])


def test_table_1_of_models_with_different_outer_layers_says_so(source: MadeSource) -> None:
    (made,) = make_tables(source)
    assert [row.keys[2] for row in made.rows] == ["FP32", "Int8", "Int4", "Int2"]
    assert [row.averaged for row in made.rows] == [(), *[("outer_bits 4, 8",)] * 3]
    named = "(Digits NiN Int8; Digits NiN Int4; Digits NiN Int2)"
    assert f"3 of 4 rows {named} are means over outer_bits 4, 8." in render(made, Format.MARKDOWN, Layout())


def test_a_matched_configuration_has_one_model_in_each_column(source: MadeSource) -> None:
    evidence = gather(source, Options(resampling=Resampling(resamples=100)))
    (models,) = evidence.models
    table = models.table(GAP)
    names = [f"Int{bits} · outer_bits {outer}" for outer in (4, 8) for bits in (8, 4, 2)]
    assert [str(one) for one in sorted(table.columns)] == ["FP32", *names]
    assert table.shape == (9, 7)
    runs = pd.DataFrame(source.rows["runs"]).set_index("job")
    for job, configuration in models.configuration.items():
        own = table.loc[configuration, models.runs.loc[job, "quantization"]]
        assert own == runs.loc[job, GAP]  # bit for bit: a mean over one
    text = render_analysis(evidence.analysis)
    assert "Digits NiN (FP32, Int8 · outer_bits 4, Int4 · outer_bits 4, Int2 · outer_bits 4)" in text
    assert {str(one.precision) for _, one in evidence.analysis.comparisons} == set(names)


def test_claims_of_a_method_are_judged_against_full_precision_of_that_method() -> None:
    spec = made_source(where=SMALL).spec
    rows = []
    for place, (method, bits) in enumerate((method, bits) for method in ("plain", "sharp") for bits in (32, 4)):
        row = {"job": f"{place}", "diverged": False, **settings(data="digits", bits=bits), "method": method}
        numbers = dict.fromkeys(("train_loss", "test_loss", GAP, "train_accuracy", "test_accuracy"), float(place))
        rows.append({**row, **numbers} | ({"method": None} if method == "plain" else {}))
    runs = finite_runs(pd.DataFrame(rows))
    (models,) = group_models(_without_axes(spec), runs)
    plain, sharp = models.variants()
    assert sorted(map(str, plain.runs["quantization"])) == ["FP32", "Int4"]
    assert sorted(map(str, sharp.runs["quantization"])) == ["FP32 · SAM", "Int4 · SAM"]
    assert FULL in models.table(GAP).columns


def _without_axes(spec: Any) -> Any:
    from dataclasses import replace

    return replace(spec, axes=())
