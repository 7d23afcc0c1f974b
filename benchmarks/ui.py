"""What the live page costs: to the first paint, in bytes, and in statements that the registry is asked.

`python -m benchmarks.ui [--runs N] [--home DIR] [--following SECONDS]` prints a Markdown table, and keeps raw figures
in `results/ui.json`.
It shows the finished digits grid of `benchmarks.made_up` in a real headless Chromium (`tests/reports/browser.py`): the
median of the runs of the browser's own first contentful paint of each page, and the bytes that were sent until then and
until everything was drawn (of a sweep its jobs and its report, which come after the first paint). Then viewers follow,
and what SQLite was asked in a minute without changes is counted. `--following` counts, without a browser, what the page
asks of SQLite and of Postgres while a cohort of 12 is done every second and one viewer or ten follow a sweep's page,
asking for its parts as its script does.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sqlite3
import statistics
import tempfile
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.made_up import make_up
from benchmarks.registry import databases
from qsweep.db import connection
from qsweep.db.asking import SqliteAsking
from qsweep.db.home import Home
from qsweep.db.transaction import Transaction
from qsweep.orchestrator.ui.serve import Background, Wanted
from qsweep.sweeps.errors import InputError
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


class Asked:
    """Counts the statements that the page's own threads ask of a registry, of whichever database."""

    def __init__(self) -> None:
        self.count = 0
        for kind in (SqliteAsking, Transaction):
            kind.ask = self._counted(kind.ask)  # type: ignore[method-assign]

    def _counted(self, ask: Any) -> Any:
        def counted(asking: Any, sql: str, values: Any = None) -> Any:
            self.count += threading.current_thread().name.startswith("qsweep-ui")
            return ask(asking, sql, values)

        return counted


def view(address: str, name: str) -> None:
    """One page of a sweep that is left open, until its server ends: what it shows is asked for at every moment."""
    server = urlsplit(address).netloc
    with suppress(OSError, http.client.HTTPException):
        stream = http.client.HTTPConnection(server)
        stream.request("GET", "/events")
        answers = http.client.HTTPConnection(server)
        for line in stream.getresponse():
            if line.startswith(b"data:"):
                for part in ("sweep", "jobs", "report"):
                    answers.request("GET", f"/data/{part}?name={name}")
                    answers.getresponse().read()


def following(home: Home, seconds: float, asked: Asked) -> dict[int, float]:
    """Statements a second while so many follow a sweep that runs."""
    pause = partial(time.sleep, 1.0)
    threading.Thread(target=make_up, args=(home, GRID), kwargs={"pause": pause}, daemon=True).start()
    found = {}
    while True:
        try:
            page = Background(Wanted(home=home, port=0))
            break
        except InputError:  # it is not registered yet
            time.sleep(0.1)
    page.close()
    time.sleep(3)
    for viewers in (1, 10):
        page = Background(Wanted(home=home, port=0))
        for _ in range(viewers):
            threading.Thread(target=view, args=(page.address, GRID), daemon=True).start()
        time.sleep(5)
        before = asked.count
        time.sleep(seconds)
        found[viewers] = (asked.count - before) / seconds
        page.close()
    return found


def follow(folder: Path, seconds: float) -> dict[str, dict[int, float]]:
    """On SQLite and, where it is installed, on Postgres."""
    asked, found = Asked(), {}
    with databases(folder, postgres=True) as made:
        for name, create in made.items():
            found[name] = following(Home.at(folder / name, registry=create("following")), seconds, asked)
            assert all(found[name].values()), "pages were drawn, and nothing was counted"
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--runs", type=int, default=5)
    options.add_argument("--home", type=Path)
    options.add_argument("--following", type=float, metavar="SECONDS")
    given = options.parse_args()
    if given.following:
        with tempfile.TemporaryDirectory(prefix="qsweep-ui-", ignore_cleanup_errors=True) as folder:
            rates = follow(Path(folder), given.following)
        known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        known["statements_a_second_while_it_runs"] = rates | {"load": os.getloadavg()[0]}
        RESULTS.write_text(json.dumps(known, indent=1) + "\n")
        for name, found in rates.items():
            for viewers, rate in found.items():
                print(f"{name}, {viewers} viewers, a cohort a second: {rate:.1f} statements a second")
        return
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
