"""What the live page costs: to the first paint, in bytes, and in statements that the registry is asked.

`python -m benchmarks.ui [--runs N] [--home DIR]` prints a Markdown table, and keeps raw figures in `results/ui.json`.
It shows the finished digits grid of `benchmarks.made_up` in a real headless Chromium (`tests/reports/browser.py`): the
median of the runs of the browser's own first contentful paint of each page, and the bytes that were sent until then and
until everything was drawn (of a sweep its jobs and its report, which come after the first paint). Then viewers follow,
and what SQLite was asked in a minute without changes is counted.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.made_up import make_up
from qsweep.db import connection
from qsweep.db.home import Home
from qsweep.orchestrator.ui.serve import Background, Wanted
from tests.reports.browser import Browser, started

RESULTS = Path(__file__).parent / "results" / "ui.json"
GRID = "digits-grid"
PAGES = {"home": "", "sweep": f"sweep?name={GRID}", "agents": "agents", "sql": "sql"}
PAINT = "performance.getEntriesByName('first-contentful-paint')[0]"
MINUTE = 60.0


def painted(browser: Browser, address: str) -> dict[str, float]:
    """First paint in seconds, and the bytes of the page and of everything."""
    browser.open(address)
    browser.until(PAINT)
    browser.until("document.documentElement.dataset.drawn")
    if "sweep" in address:
        browser.until("document.querySelector('#report h2#claims')", seconds=300)
    page, rest = browser.run(
        "return [performance.getEntriesByType('navigation')[0].transferSize,"
        "performance.getEntriesByType('resource').reduce((sum, one) => sum + one.transferSize, 0)]"
    )
    return {"paint": browser.run(f"return {PAINT}.startTime") / 1000, "page": page, "whole": page + rest}


class Statements:
    """Counts what SQLite is asked in this process, but for the number of its version, which is no query."""

    def __init__(self) -> None:
        self.asked = 0
        self._open = connection._sqlite_connection
        connection._sqlite_connection = self._traced

    def _traced(self, file: str) -> sqlite3.Connection:
        raw = self._open(file)
        raw.set_trace_callback(self._count)
        return raw

    def _count(self, sql: str) -> None:
        self.asked += "data_version" not in sql

    def a_second(self, browser: Browser, address: str, tabs: int) -> float:
        """While so many more pages are open and nothing changes."""
        for _ in range(tabs):
            browser.run(f"open({json.dumps(address)})")
        time.sleep(10)
        before = self.asked
        time.sleep(MINUTE)
        return (self.asked - before) / MINUTE


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--runs", type=int, default=5)
    options.add_argument("--home", type=Path)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Home.at(given.home or Path(folder) / "home")
        make_up(home, GRID)
        counted = Statements()
        page = Background(Wanted(home=home, port=0))
        try:
            with started(Path(folder)) as browser:
                browser.look(width=1300)
                found = {
                    name: [painted(browser, page.address + path) for _ in range(given.runs)]
                    for name, path in PAGES.items()
                }
                assert counted.asked, "the pages were drawn, and nothing was counted"
                asked = {tabs: counted.a_second(browser, page.address, tabs) for tabs in (1, 9)}
        finally:
            page.close()
    RESULTS.write_text(json.dumps({"pages": found, "statements_a_second": asked}, indent=1) + "\n")
    print("| page | first paint (s) | page (kB) | whole (kB) |\n|---|---|---|---|")
    for name, runs in found.items():
        middle = {key: statistics.median(one[key] for one in runs) for key in runs[0]}
        print(f"| {name} | {middle['paint']:.2f} | {middle['page'] / 1e3:.0f} | {middle['whole'] / 1e3:.0f} |")
    for tabs, rate in asked.items():
        print(f"\nstatements a second with {tabs} more pages open and nothing changing: {rate:.2f}")


if __name__ == "__main__":
    main()
