"""The live page: who may ask, what it shows in a real browser while things change, and what it does if allowed."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
import pytest
import sqlalchemy as sa

from qsweep.db.compaction import compact
from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.rows import Load
from qsweep.db.states import AgentState, SweepState
from qsweep.db.tables import loads
from qsweep.orchestrator.ui import app
from qsweep.orchestrator.ui.serve import Background, Wanted, prepared
from qsweep.reports.bundle import write_bundle
from qsweep.reports.opening import opened_source
from qsweep.reports.query import Bounds
from qsweep.sweeps.errors import InputError
from tests.conftest import Qsweep
from tests.db.conftest import agent_info
from tests.reports.browser import AXE, CHROMEDRIVER, CHROMIUM, Browser, started
from tests.reports.made import SWEEP, Made, finished, home_at, work

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&amp;"
TEXT = SWEEP.replace('"Made up"', f'"\\u001b[31m{HOSTILE}"')
COLOURED = f"\x1b[31m{HOSTILE}\x1b]8;;http://evil.example\x07[bold]"
"""What a spiteful user may put into a field: markup, escape sequences, the markup of a terminal's library."""
Answer = tuple[int, dict[str, str], str]


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A sweep of a hostile title of which two cohorts of three are done."""
    return finished(home_at(tmp_path_factory.mktemp("ui")), TEXT, cohorts=2)


def spoil(home: Home) -> None:
    """Hostile texts in every field that is shown of a registry, and an agent at work which tells what it uses."""
    with Registry.open(home.registry) as registry:
        agent = registry.agents.enlist(agent_info(host=COLOURED, device=COLOURED, backend=COLOURED, lease=1e6))
        for minute, busy in enumerate((0.5, 1.5, 1.0)):
            load = Load(at=60.0 * minute, processor=busy, memory=10**9)
            assert registry.queue.beat(agent, json.dumps({"cohort": COLOURED, "jobs": 1}), load) == frozenset()
            registry.queue.beat(agent, json.dumps({"cohort": COLOURED, "jobs": 1}), load)  # told again: kept once
        stopped = registry.agents.enlist(agent_info(host=COLOURED, device=COLOURED))
        registry.agents.stop(stopped, COLOURED)
        fields = {"sweeps": ("owner", "reason"), "events": ("detail",), "attempts": ("error",)}
        for table, names in fields.items():
            for name in names:
                change = sa.text(f"UPDATE {table} SET {name} = :text")
                registry._database.write(lambda t, change=change: t.connection.execute(change, {"text": COLOURED}))


@contextmanager
def served(wanted: Wanted) -> Iterator[Background]:
    page = Background(replace(wanted, port=0))
    try:
        yield page
    finally:
        page.close()


@pytest.fixture(scope="module")
def page(half: Made) -> Iterator[Background]:
    with served(Wanted(home=half.home)) as found:
        yield found


def ask(page: Background, path: str, *, method: str = "GET", content: Any = None, **headers: str) -> Answer:
    """One request with these headers (`host` and `origin` as a browser would set them)."""
    address = urlsplit(page.address)
    connection = http.client.HTTPConnection("127.0.0.1", address.port or 0, timeout=30)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    body = None if content is None else json.dumps(content)
    if body is not None:
        named.setdefault("content-type", "application/json")
    try:
        connection.request(method, path, body=body, headers=named)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("status", "options"),
    [
        (200, {}),
        (200, {"host": "localhost:1234"}),  # through a tunnel
        (403, {"host": "evil.example"}),
        (403, {"host": "127.0.0.1.evil.example:8470"}),
        (403, {"origin": "http://evil.example"}),
        (403, {"origin": "null"}),
        (403, {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"}),
        (403, {"sec_fetch_site": "cross-site", "sec_fetch_mode": "cors"}),
        (200, {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}),  # a link
        (405, {"method": "DELETE"}),
    ],
)
def test_another_name_and_another_site_are_refused(page: Background, status: int, options: dict[str, str]) -> None:
    got, headers, text = ask(page, "/", **options)
    assert got == status
    assert headers["x-content-type-options"] == "nosniff"
    assert "<img" not in text
    if status == 200:
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy


def test_only_json_is_taken_and_nothing_can_be_done_unless_it_is_allowed(page: Background) -> None:
    form = {"content_type": "application/x-www-form-urlencoded"}
    assert ask(page, "/data/sql", method="POST", content={"sql": "SELECT 1"}, **form)[0] == 415
    assert ask(page, "/data/sql", method="POST", content=[1])[0] == 400
    assert ask(page, "/act", method="POST", content={"act": "cancel", "name": "made"})[0] == 404
    assert ask(page, "/data/nothing")[0] == 404
    assert ask(page, "/data/sql")[0] in (200, 405)


def test_a_token_is_asked_for_once_and_kept_in_a_cookie(half: Made) -> None:
    with served(Wanted(home=half.home, token=True)) as page:
        token = urlsplit(page.address).query.partition("=")[2]
        assert len(token) == 48
        for path in ("/", "/events", "/data/home", "/?token=", f"/?token={quote('ü')}", f"/?token={token[:-1]}"):
            status, headers, text = ask(page, path)
            assert status == 401
            assert "made" not in text
            assert "set-cookie" not in headers
        status, headers, _ = ask(page, f"//evil.example/?token={token}&name=made")
        assert (status, headers["location"]) == (303, "/evil.example/?name=made")
        cookie = headers["set-cookie"]
        assert "httponly" in cookie.lower()
        assert "samesite=strict" in cookie.lower()
        assert ask(page, "/data/home", cookie=cookie.partition(";")[0])[0] == 200
        assert ask(page, "/data/home", authorization=f"token {token}")[0] == 200
        assert ask(page, "/data/home", authorization=f"token {token}", host="evil.example")[0] == 403


def test_a_query_has_its_lock_and_its_bounds(page: Background, monkeypatch: pytest.MonkeyPatch) -> None:
    def query(sql: str) -> Answer:
        return ask(page, "/data/sql", method="POST", content={"sql": sql})

    status, _, text = query("SELECT count(*) AS n FROM runs")
    assert (status, json.loads(text)["rows"]) == (200, [[8]])
    for sql in (
        "SELECT * FROM read_csv('/etc/passwd')",
        "COPY runs TO '/tmp/x.csv'",
        "SELECT 1; SELECT 2",
        "SET threads = 9",
    ):
        status, _, text = query(sql)
        assert status == 400
        assert json.loads(text)["problem"].startswith("query: ")
    monkeypatch.setattr(app, "BOUNDS", Bounds(seconds=1.0, memory="60MB", rows=100))
    answer = json.loads(query("SELECT * FROM range(20000)")[2])
    assert len(answer["rows"]) == 100
    assert "first 100 rows" in answer["notes"][0]
    assert "allocate" in json.loads(query("SELECT list(i) FROM range(10000000000) t(i)")[2])["problem"]
    monkeypatch.setattr(app, "BOUNDS", Bounds(seconds=1.0, memory="1GB", rows=100))
    endless = "SELECT sum(a.range * b.range) FROM range(10000000) a, range(10000000) b"
    assert "longer than the 1 s" in json.loads(query(endless)[2])["problem"]


def test_fifty_viewers_that_vanish_cost_what_one_does(half: Made) -> None:
    with served(Wanted(home=half.home)) as page:
        live, looks = page.site.live, []
        pulse = live._pulse

        async def counted() -> Any:
            looks.append(time.monotonic())
            return await pulse()

        live._pulse = counted
        port = urlsplit(page.address).port
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
        for one in clients:
            one.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for one in clients:
            assert one.recv(1)
        wait(lambda: live.viewers == 50)
        begun = len(looks)
        wait(lambda: len(looks) >= begun + 3)
        assert looks[-1] - looks[begun] >= 1.9  # a look a second, however many follow
        for one in clients:
            one.close()
        wait(lambda: live.viewers == 0)
        wait(lambda: not live.followed)


def wait(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_act_is_said_before_it_is_done(tmp_path: Path) -> None:
    made = finished(home_at(tmp_path), TEXT, cohorts=2)
    with served(Wanted(home=made.home, actions=True)) as page:
        token = urlsplit(page.address).query.partition("=")[2]

        def act(name: str, agreed: str = "") -> dict[str, str]:
            content = {"act": name, "name": "made", "agreed": agreed}
            found: dict[str, str] = json.loads(
                ask(page, "/act", method="POST", content=content, authorization=f"token {token}")[2]
            )
            return found

        def state() -> SweepState:
            with Registry.open(made.home.registry) as registry:
                return registry.catalogue.find_sweep("made").state

        before = act("cancel")["would"]
        assert "16 waiting jobs" in before
        work(made, cohorts=1)
        now = act("cancel", before)["would"]  # four are done since: it is said anew
        assert "12 waiting jobs" in now
        assert state() is SweepState.ACTIVE
        assert "paused" in act("pause", act("pause")["would"])["done"]
        assert state() is SweepState.PAUSED
        assert "active" in act("resume", act("resume")["would"])["done"]
        assert "no job of it has failed" in act("retry")["problem"]
        assert "12 queued jobs cancelled" in act("cancel", now)["done"]
        assert state() is SweepState.CANCELLED


def test_curves_are_those_of_the_asked_jobs(half: Made, page: Background) -> None:
    epochs = half.frame("epochs")
    jobs = sorted(epochs["job"].unique())
    groups = [["most", jobs[1:]], ["none", ["f" * 32]], ["one", jobs[:1]]]
    (panel,) = curves(page, groups)["panels"]
    band, *lines = panel["marks"]
    assert [(one["type"], one["series"]) for one in (band, *lines)] == [("band", 0), ("line", 0), ("line", 2)]
    losses = {job: own.sort_values("epoch")["train_loss"].to_numpy() for job, own in epochs.groupby("job")}
    many = np.stack([losses[job] for job in jobs[1:]])
    assert lines[1]["y"] == pytest.approx(losses[jobs[0]], rel=1e-5)
    assert lines[0]["y"] == pytest.approx(np.quantile(many, 0.5, axis=0), rel=1e-5)
    assert band["low"] == pytest.approx(np.quantile(many, 0.1, axis=0), rel=1e-5)
    assert band["high"] == pytest.approx(np.quantile(many, 0.9, axis=0), rel=1e-5)
    assert curves(page, [["waits", ["0" * 32]]]) is None
    status, _, text = ask(page, "/data/curves", method="POST", content={"name": "made", "groups": ["ab"]})
    assert (status, "groups" in json.loads(text)["problem"]) == (400, True)
    mine = json.loads(ask(page, f"/data/compared?id={jobs[0]}&with={jobs[1][:12]}")[2])["chart"]
    assert mine["names"] == [f"7 other jobs of {half.sweep.title}", jobs[0][:12], jobs[1][:12]]
    assert mine["panels"][0]["marks"][2]["y"] == pytest.approx(losses[jobs[0]], rel=1e-5)


def curves(page: Background, groups: list[list[Any]]) -> Any:
    answer = ask(page, "/data/curves", method="POST", content={"name": "made", "groups": groups})
    return json.loads(answer[2])["chart"]


def test_what_agents_use_is_kept_with_the_results(tmp_path: Path) -> None:
    made = finished(home_at(tmp_path), TEXT, cohorts=2)
    with Registry.open(made.home.registry) as registry:
        (worked,) = registry.catalogue.agents(AgentState.RETIRED)
        for minute, busy in enumerate((0.5, 1.5, 1.0)):
            load = Load(at=60.0 * minute, processor=busy, memory=10**9)
            registry._database.write(
                lambda t, load=load: t.run(loads.insert().values(agent_id=worked.id, **asdict(load)))
            )
    with opened_source("made", made.home) as source:
        write_bundle(source, tmp_path / "bundle")
    for wanted in (Wanted(home=made.home), Wanted(home=made.home, bundle=tmp_path / "bundle")):
        with served(wanted) as page:
            (choice,) = json.loads(ask(page, "/data/agents")[2])["loads"]["choices"]
            assert [panel["title"] for panel in choice["panels"]] == ["Processors busy", "Memory"]
            (line,) = choice["panels"][0]["marks"]
            assert (line["x"], line["y"]) == ([0, 1, 2], [0.5, 1.5, 1])
            sql = "SELECT agent, max(processor) AS most, count(*) AS n FROM loads GROUP BY agent"
            assert json.loads(ask(page, "/data/sql", method="POST", content={"sql": sql})[2])["rows"] == [
                [worked.id, 1.5, 3]
            ]


def test_a_registry_of_another_version_is_said_until_it_is_upgraded(tmp_path: Path) -> None:
    made = finished(home_at(tmp_path), TEXT, cohorts=2)
    path = Path(made.home.registry.removeprefix("sqlite:///"))
    with served(Wanted(home=made.home)) as page:
        assert ask(page, "/data/home")[0] == 200
        older = tmp_path / "older.db"
        shutil.copy(path, older)
        with closing(sqlite3.connect(older)) as connection, connection:
            connection.execute("DROP TABLE loads")
            connection.execute("UPDATE qsweep_version SET version_num = '0007'")
        os.replace(older, path)  # as a backup is put back while the page is open
        wait(lambda: "qsweep db upgrade" in ask(page, "/data/home")[2])
        Registry.upgrade(path)
        wait(lambda: ask(page, "/data/home")[0] == 200)
        assert not page.site.live.now.away
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("UPDATE qsweep_version SET version_num = '9999'")
        wait(lambda: ask(page, "/data/home")[0] == 200 and "newer than this program" in page.site.live.now.away)


def test_a_bundle_is_shown_as_its_registry_is(half: Made, tmp_path: Path) -> None:
    with opened_source("made", half.home) as source:
        write_bundle(source, tmp_path / "bundle")
    with served(Wanted(home=half.home)) as one, served(Wanted(home=half.home, bundle=tmp_path / "bundle")) as other:
        contents = [json.loads(ask(page, "/data/jobs?name=made")[2])["jobs"] for page in (one, other)]
        assert contents[0] == contents[1]
        where = f"/data/where?name=made&where={quote('bits == 2')}"
        assert json.loads(ask(one, where)[2]) == json.loads(ask(other, where)[2]) != []
        job = contents[0]["train"]["ids"][0]
        lives = [json.loads(ask(page, f"/data/job?id={job}")[2]) for page in (one, other)]
        assert lives[0]["settings"] == lives[1]["settings"] != []
        assert lives[0]["epochs"] == lives[1]["epochs"]
        assert ask(other, "/report?name=made")[0] == 200
        assert ask(other, "/data/sweep?name=another")[0] == 400


def test_what_cannot_be_served_is_one_sentence(
    half: Made, here: Qsweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} is in use"):
            prepared(Wanted(home=half.home, port=port))
    with pytest.raises(InputError, match="listen on"):
        prepared(Wanted(home=half.home, host="no.such.host.invalid", port=0))
    answer = here("ui", "--home", str(tmp_path / "nothing"))
    assert (answer.returncode, answer.stdout) == (2, "")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(InputError, match=r"pip install 'qsweep\[ui\]'"):
        prepared(Wanted(home=half.home))


needs_browser = pytest.mark.skipif(
    not (CHROMIUM and CHROMEDRIVER) and "browser" not in os.environ.get("QSWEEP_REQUIRE", ""),
    reason="needs chromium and chromedriver",
)


@needs_browser
@pytest.mark.slow
def test_a_browser_shows_every_page_as_things_change(tmp_path: Path) -> None:
    made = finished(home_at(tmp_path), TEXT, cohorts=2)
    spoil(made.home)
    with served(Wanted(home=made.home)) as page, started(tmp_path) as browser:
        job = made.rows["runs"][0]["job"]
        paths = [
            "",
            "sweep?name=made",
            f"job?id={job}&with={made.rows['runs'][5]['job']}",
            "agents",
            "sql",
            "report?name=made",
        ]
        for width, dark in ((1300, False), (390, True)):
            browser.look(width=width, dark=dark)
            for path in paths:
                browser.open(page.address + path)
                if not path.startswith("report"):
                    browser.until("document.documentElement.dataset.drawn")
                if path.startswith("sweep"):
                    browser.until("document.querySelector('#report h2#claims')")
                if path.startswith("job"):
                    browser.until("document.querySelector('#settings tr.differs')")
                    browser.until("document.querySelector('#epochs figure svg')")
                if path == "agents":
                    browser.until("document.querySelector('#loads figure svg')")
                assert browser.run("return document.documentElement.scrollWidth") <= width, path
                origins = browser.run(
                    "return performance.getEntriesByType('resource').map(one => new URL(one.name).origin)"
                )
                assert {*origins} <= {page.address.rstrip("/")}
                assert browser.run("return document.images.length") == 0
                ground = browser.run("return getComputedStyle(document.body).backgroundColor")
                assert ground == ("rgb(23, 24, 26)" if dark else "rgb(255, 254, 251)")
                assert browser.messages() == []
                if AXE:
                    assert browser.violations() == [], path
        browser.look(width=1300)
        _narrows_down(browser, page)
        _follows(browser, page, made)
    if not AXE:
        missing = "what axe-core finds was not looked at, for QSWEEP_TEST_AXE names no axe.min.js: all the rest held"
        (pytest.fail if "axe" in os.environ.get("QSWEEP_REQUIRE", "") else pytest.skip)(missing)


def _narrows_down(browser: Browser, page: Background) -> None:
    """A condition, a brush and the table say the same."""
    browser.open(page.address + "sweep?name=made")
    browser.until("document.querySelectorAll('#list tbody tr').length === 24")
    browser.run(
        "document.querySelector('input.where').value = 'bits == 2';"
        "document.querySelector('input.where').dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter'}))"
    )
    browser.until("document.querySelectorAll('#list tbody tr').length === 6")
    browser.until("document.querySelectorAll('#selected figure .key').length === 2")  # so many of them are done
    browser.run(
        "const axis = document.querySelector('[aria-label=\"Brush optimizer\"]');"
        "for (let i = 0; i < 20; i += 1) axis.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowUp'}))"
    )
    browser.until("document.querySelectorAll('#list tbody tr').length === 3")
    assert "3 of 24 jobs" in browser.run("return document.querySelector('.explore .count').textContent")
    browser.run("[...document.querySelectorAll('#list tbody input')].slice(0, 2).forEach((one) => one.click())")
    browser.until("document.querySelector('#selected table.beside')")
    differing = "[...document.querySelectorAll('#selected tr.differs th')].map((one) => one.textContent)"
    assert "width" in browser.run(f"return {differing}")
    assert "bits" not in browser.run(f"return {differing}")
    browser.run(
        "document.querySelector('input.where').value = 'bitz == 2';"
        "document.querySelector('input.where').dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter'}))"
    )
    browser.until("document.getElementById('refused').textContent.includes('bits')")
    browser.messages()  # Chromium notes the refusal there


def _follows(browser: Browser, page: Background, made: Made) -> None:
    """What is done appears; a registry that goes away is said, and is live again when it is back."""
    browser.open(page.address + "sweep?name=made")
    done = "document.querySelector('.facts dd').textContent"
    browser.until(f"{done} === '8 of 24'")
    work(made, cohorts=1)
    browser.until(f"{done} === '12 of 24'", seconds=10)
    browser.until("[...document.querySelectorAll('#report td')].some(one => one.textContent === '12')", seconds=200)
    with Registry.open(made.home.registry) as registry:
        compact(made.home, registry, [made.sweep.id])
        registry.sweeps.cancel(made.sweep.id)
    browser.until("document.getElementById('lead').textContent.includes('cancelled')")
    root = made.home.root
    root.rename(root.with_suffix(".away"))
    browser.until("!document.getElementById('away').hidden")
    root.with_suffix(".away").rename(root)
    browser.until("document.getElementById('away').hidden && document.getElementById('pulse').textContent === 'live'")
    assert browser.run(f"return {done}") == "12 of 24"
