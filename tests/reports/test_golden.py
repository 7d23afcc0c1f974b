"""What is answered about the built-in sweeps, byte for byte as it was before results were keyed by components."""

from __future__ import annotations

import hashlib
import json

import pytest

from qsweep.reports.analysis.analysis import Options
from qsweep.reports.analysis.correlation import Resampling
from qsweep.reports.analysis.text import analysis_content, render_analysis
from qsweep.reports.answers import render_tables
from qsweep.reports.evidence import gather
from qsweep.reports.formats import Format
from qsweep.reports.render import Layout
from tests.reports.drawn import made_source

TABLES = {
    "digits-grid": ("011ec5472cb3a139", "28245de3d7072d0f"),
    "digits-flatness": ("1e8ece55f940b2bf", "5597d5200d3af93b"),
    "digits-distortion": ("dadcec456d176df2", "c324f7238a9e2d20"),
}
"""The hash of all tables of made-up results, in every form: alone, and with errors beside the paper's values."""
ANALYSES = {
    "digits-grid": "848e4080a37882e0",
    "digits-flatness": "247e63a7fb7ab0ca",
}
"""The hash of the analysis of made-up results, as text and as JSON."""


def digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_the_bytes_of_tables_never_change(name: str) -> None:
    source = made_source(name)
    layouts = (Layout(), Layout(against_paper=True, spread=True))
    found = tuple(digest(*(render_tables(source, form, layout) for form in Format)) for layout in layouts)
    assert found == TABLES[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", ANALYSES)
def test_the_bytes_of_an_analysis_never_change(name: str) -> None:
    source = made_source(name, where="depth == 2 and width == 8" if name == "digits-grid" else None)
    analysis = gather(source, Options(resampling=Resampling(resamples=100))).analysis
    content = json.dumps(analysis_content(analysis), sort_keys=True, allow_nan=False)
    assert digest(render_analysis(analysis), content) == ANALYSES[name]
