"""The report: its bytes, its escaping, its lists of jobs; and in a real browser, without a word on its console."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qsweep.reports.analysis.analysis import Options
from qsweep.reports.analysis.correlation import Resampling
from qsweep.reports.evidence import gather
from qsweep.reports.page import render_page
from qsweep.reports.page.joblist import JobList, runs_of
from qsweep.reports.quantization import quantization_of
from qsweep.sweeps.spec import Spec
from tests.reports.browser import CHROMEDRIVER, CHROMIUM, Browser, started
from tests.reports.drawn import MadeSource, made_source

QUICK = Options(resampling=Resampling(resamples=100))
SMALL = "depth == 2 and weight_decay == 0"
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u2028&amp;"


def page_of(source: MadeSource) -> str:
    return render_page(gather(source, QUICK))


def embedded(page: str) -> Any:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


@pytest.fixture(scope="module")
def page() -> str:
    return page_of(made_source(where=SMALL))


@pytest.fixture(scope="module")
def measured() -> str:
    """The page of a sweep with measures of flatness."""
    return page_of(made_source("digits-flatness"))


@pytest.mark.slow
def test_the_same_rows_give_the_same_bytes_and_in_another_order_the_same_numbers(page: str) -> None:
    assert page_of(made_source(where=SMALL)) == page
    shuffled = page_of(made_source(where=SMALL, order=4))
    # The page's data list jobs in the order of their registration; what is to be read does not depend on it.
    assert shuffled.partition("<script")[0] == page.partition("<script")[0]


def test_nothing_is_fetched_and_only_the_pages_own_script_may_run(page: str) -> None:
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", page)
    assert "@import" not in page
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    policy = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)[0]
    for kind, text in (("script-src", script), ("style-src", style)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_a_precision_that_is_not_measured_yet_has_no_dots(measured: str) -> None:
    source = made_source("digits-flatness")
    source.rows["measures"] = [row for row in source.rows["measures"] if row["bits"] != 32]
    some, every = (embedded(text)["charts"]["scatter-0"]["choices"] for text in (page_of(source), measured))
    dots = [[one["jobs"] for choice in choices for one in choice["panels"][-1]["marks"]] for choices in (some, every)]
    assert [] in dots[0]
    assert [] not in dots[1]


def hostile_source() -> MadeSource:
    """Names, titles and errors as a spiteful user would choose them."""
    source = made_source(where="depth == 2 and width == 8 and weight_decay == 0")
    spec = Spec.from_json(source.sweep.spec, place="here")
    source.sweep = replace(source.sweep, spec=replace(spec, title=HOSTILE).to_json(), label=HOSTILE)
    for row in source.rows["runs"]:
        row |= {"host": HOSTILE, "device": HOSTILE}
    source.rows["jobs"][0] |= {"state": "failed", "error": HOSTILE, "attempt": 2}
    source.rows["attempts"][0] |= {"outcome": "failed", "failure_class": "crash", "error": f"first\n{HOSTILE}"}
    for row in source.rows["layers"]:
        row["layer"] = HOSTILE
    return source


@pytest.mark.slow
def test_names_and_errors_are_shown_as_text() -> None:
    page = page_of(hostile_source())
    assert page.count("<script") == 2
    assert "<img" not in page
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in page
    assert HOSTILE in embedded(page)["charts"]["steps-0"]["panels"][0]["x"]["labels"]


def test_a_number_leads_to_the_jobs_that_it_is_the_mean_of(page: str) -> None:
    source, data = made_source(where=SMALL), embedded(page)
    runs = source.rows["runs"]
    cells = re.findall(r'data-set="(\d+)" data-kind="train" data-by="(\w+)" data-title="Digits NiN (\w+): ', page)
    assert len(cells) == 5 * 4
    for key, value, precision in cells:
        rows = members(data["sets"][int(key)])
        wanted = {row["job"] for row in runs if str(quantization_of(row)) == precision}
        assert {data["jobs"]["train"]["ids"][row] for row in rows} == wanted
        column = next(one for one in data["jobs"]["train"]["columns"] if one["name"] == value)
        for row in rows:
            job = data["jobs"]["train"]["ids"][row]
            exact = next(one[value] for one in runs if one["job"] == job)
            assert column["numbers"][row] == pytest.approx(exact, rel=1e-5)


def members(runs: list[int]) -> list[int]:
    """What the page's script makes of a set."""
    found: list[int] = []
    at = 0
    for gap, count in zip(runs[::2], runs[1::2], strict=True):
        found += range(at + gap, at + gap + count)
        at = found[-1] + 1
    return found


@pytest.mark.parametrize("rows", [[], [0], [0, 1, 2], [3, 4, 9], [0, 2, 4, 5]])
def test_a_set_of_rows_is_kept_as_runs(rows: list[int]) -> None:
    assert members(runs_of(rows)) == rows


def test_equal_sets_are_kept_once() -> None:
    jobs = JobList(ids={"train": ["a", "b", "c"]}, content={})
    assert jobs.add("train", ["c", "a"]) == jobs.add("train", ["a", "c"]) == 0
    assert jobs.add("train", ["b"]) == 1
    assert jobs.add("train", []) is None
    assert jobs.sets == [[0, 1, 1, 1], [1, 1]]


def lists_of(page: str) -> dict[str, tuple[set[str], int]]:
    """The jobs that each number of a page leads to, and of how many it says that they are; by the number's title."""
    data, found = embedded(page), {}
    for key, kind, title in re.findall(r'data-set="(\d+)" data-kind="(\w+)" data-by="\w*" data-title="([^"]*)"', page):
        made = data["sets"][int(key)]
        rows = members(made["rows"] if isinstance(made, dict) else made)
        found[title] = (
            {data["jobs"][kind]["ids"][row] for row in rows},
            made["of"] if isinstance(made, dict) else len(rows),
        )
    return found


def test_a_page_of_many_jobs_carries_a_random_sample_of_them_and_says_of_how_many(
    page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = embedded(page)["jobs"]["train"]["ids"]
    kept = set(sorted(whole)[: len(whole) // 3])
    monkeypatch.setattr("qsweep.reports.page.joblist.MOST", len(kept))
    monkeypatch.setattr("qsweep.reports.page.joblist.LEAST", 0)
    sampled = page_of(made_source(where=SMALL))
    jobs = embedded(sampled)["jobs"]["train"]
    assert jobs["ids"] == [one for one in whole if one in kept]
    assert jobs["of"] == len(whole)
    assert f"Lists of jobs show {len(kept):,} of {len(whole):,} jobs, a random sample" in sampled
    lists, every = lists_of(sampled), lists_of(page)
    assert len(lists) > 20
    assert lists == {title: (jobs & kept, of) for title, (jobs, of) in every.items() if jobs & kept}
    dots = [mark for mark in marks_of(embedded(sampled)["charts"]) if "jobs" in mark]
    assert all(len(mark["jobs"]) == len(mark["y"]) for mark in dots)
    assert any(None in mark["jobs"] for mark in dots)


def marks_of(charts: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for chart in charts.values():
        for panel in [
            *chart.get("panels", ()),
            *(one for choice in chart.get("choices", ()) for one in choice["panels"]),
        ]:
            yield from panel["marks"]


@pytest.mark.slow
def test_a_sweep_with_measures_shows_tables_2_and_3_with_their_searches(measured: str) -> None:
    page = measured
    assert "Table 2: " in page
    assert "Table 3: " in page
    assert set(re.findall(r'data-kind="(\w+)"', page)) == {"train", "measure"}
    labels = [choice["label"] for choice in embedded(page)["charts"]["scatter-0"]["choices"]]
    assert labels[0] == "reference · latent+s"


def test_a_sweep_without_results_gives_a_page_that_says_so() -> None:
    page = page_of(made_source(done=0))
    assert "No model is done yet." in page
    assert "0 of 972" in page


needs_browser = pytest.mark.skipif(
    not (CHROMIUM and CHROMEDRIVER) and "browser" not in os.environ.get("QSWEEP_REQUIRE", ""),
    reason="needs chromium and chromedriver",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if not (CHROMIUM and CHROMEDRIVER):
        pytest.fail("QSWEEP_REQUIRE names the browser, and chromium or chromedriver is missing")
    with started(tmp_path_factory.mktemp("browser")) as found:
        yield found


@needs_browser
@pytest.mark.slow
def test_a_browser_draws_sorts_filters_and_lists_jobs_without_a_word(
    browser: Browser, page: str, tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    path.write_text(page)
    browser.look(width=1200)
    browser.open(path)
    drawn = browser.run(
        "return [...document.querySelectorAll('.plots')].map(one => one.querySelectorAll('svg').length)"
    )
    assert len(drawn) == len(embedded(page)["charts"])
    assert all(drawn)
    browser.run("document.querySelector('button.cell').click()")
    title = browser.run("return document.getElementById('jobs-title').textContent")
    rows = browser.run("return document.querySelectorAll('#jobs-body tbody tr').length")
    assert title.startswith("Digits NiN FP32: Train acc. (%)")
    assert rows == int(title.split("— ")[1].split()[0]) == 27
    shown = browser.run(
        "const box = document.querySelector('#jobs-body input'); box.value = 'sgd';"
        "box.dispatchEvent(new Event('input'));"
        "return [...document.querySelectorAll('#jobs-body tbody tr')].filter(row => !row.hidden).length"
    )
    assert shown == 9
    order = browser.run(
        "document.getElementById('jobs').close();"
        "const table = document.querySelector('#tables ~ .block table');"
        "table.querySelectorAll('thead button')[7].click(); table.querySelectorAll('thead button')[7].click();"
        "return [...table.tBodies[0].rows].map(row => Number(row.cells[7].dataset.v))"
    )
    assert len(order) == 4
    assert order == sorted(order, reverse=True)
    assert browser.messages() == []


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("shown", ["page", "measured"])
def test_a_phone_shows_the_page_without_scrolling_sideways(
    browser: Browser, shown: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    path.write_text(request.getfixturevalue(shown))
    browser.look(width=390, height=844, dark=True)
    browser.open(path)
    assert browser.run("return document.documentElement.scrollWidth") <= 390
    assert browser.run("return getComputedStyle(document.body).backgroundColor") == "rgb(23, 24, 26)"
    assert browser.messages() == []


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("shown", ["page", "measured"])
def test_tables_fit_their_boxes_panels_begin_at_one_x_and_curves_have_a_hover(
    browser: Browser, shown: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    path.write_text(request.getfixturevalue(shown))
    browser.look(width=1300)
    browser.open(path)
    wide = (
        "return [...document.querySelectorAll('.scroll')].filter(one => one.scrollWidth > one.clientWidth + 1).length"
    )
    assert browser.run(wide) == 0
    starts = browser.run(
        "return [...document.querySelectorAll('.plots')].map(one => new Set([...one.querySelectorAll('svg .axis')]"
        ".map(axis => axis.getAttribute('d').split(' ')[0])).size)"
    )
    assert set(starts) == {1}
    tip = browser.run(
        "const one = document.querySelector('[data-chart=curves-0] .plots svg'), box = one.getBoundingClientRect();"
        "const clientX = box.left + box.width / 2, clientY = box.top + 40;"
        "one.dispatchEvent(new PointerEvent('pointermove', {clientX, clientY}));"
        "return document.getElementById('tip').textContent"
    )
    assert re.match(r"epoch \d\nFP32: [\d.]+\nInt8: [\d.]+\nInt4: [\d.]+\nInt2: [\d.]+$", tip)
    browser.run("document.querySelector('button.cell').click()")
    assert browser.run(wide) == 0
    numbers = browser.run(
        "return [...document.querySelectorAll('#jobs-body tbody tr')].map(row =>"
        "[...row.querySelectorAll('td.n')].map(cell => (cell.textContent.split('.')[1] || '').length))"
    )
    assert all(row == numbers[0] for row in numbers)
    assert browser.messages() == []
    browser.look(width=390, height=844)
    browser.open(path)
    assert "after" in browser.run("return document.querySelector('nav > div').className")


def test_accuracies_are_in_percent_and_figures_say_of_how_many_models(page: str) -> None:
    assert page.count("Digits NiN: 108 models (27 FP32, 27 Int8, 27 Int4, 27 Int2). ") >= 4
    assert ">test accuracy (%)<" in page
    column = next(one for one in embedded(page)["jobs"]["train"]["columns"] if one["name"] == "test_accuracy")
    assert (column["label"], column["factor"], column["decimals"]) == ("test acc. (%)", 100, 2)
    titles = [panel["title"] for panel in embedded(page)["charts"]["scatter-0"]["choices"][0]["panels"]]
    assert all(title.endswith(", n = 108") for title in titles)


@needs_browser
@pytest.mark.slow
def test_hostile_names_run_nothing_in_a_browser(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(page_of(hostile_source()))
    browser.look(width=1200)
    browser.open(path)
    assert browser.run("return document.querySelector('h1').textContent") == HOSTILE
    assert browser.messages() == []
