"""The live page: who may ask, what it shows in a real browser while things change, and what it does if allowed."""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from qsweep.db.registry import Registry
from qsweep.db.states import SweepState
from qsweep.orchestrator.ui import app
from qsweep.orchestrator.ui.serve import Background, Wanted, prepared
from qsweep.reports.bundle import write_bundle
from qsweep.reports.opening import opened_source
from qsweep.reports.query import Bounds
from qsweep.sweeps.errors import InputError
from tests.conftest import Qsweep
from tests.reports.browser import CHROMEDRIVER, CHROMIUM, Browser, started
from tests.reports.made import SWEEP, Made, finished, home_at, work

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&amp;"
TEXT = SWEEP.replace('"Made up"', f'"\\u001b[31m{HOSTILE}"')
Answer = tuple[int, dict[str, str], str]


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A sweep of a hostile title of which two cohorts of three are done."""
    return finished(home_at(tmp_path_factory.mktemp("ui")), TEXT, cohorts=2)


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
    with served(Wanted(home=made.home)) as page, started(tmp_path) as browser:
        job = made.rows["runs"][0]["job"]
        paths = ["", "sweep?name=made", f"job?id={job}&with={made.rows['runs'][5]['job']}", "agents", "sql"]
        for width, dark in ((1300, False), (390, True)):
            browser.look(width=width, dark=dark)
            for path in paths:
                browser.open(page.address + path)
                browser.until("document.documentElement.dataset.drawn")
                if path.startswith("sweep"):
                    browser.until("document.querySelector('#report h2#claims')")
                if path.startswith("job"):
                    browser.until("document.querySelector('#settings tr.differs')")
                assert browser.run("return document.documentElement.scrollWidth") <= width, path
                origins = browser.run(
                    "return performance.getEntriesByType('resource').map(one => new URL(one.name).origin)"
                )
                assert {*origins} <= {page.address.rstrip("/")}
                assert browser.run("return document.images.length") == 0
                ground = browser.run("return getComputedStyle(document.body).backgroundColor")
                assert ground == ("rgb(23, 24, 26)" if dark else "rgb(255, 254, 251)")
                # The log of a made-up attempt is not there; any other word on the console is one too many.
                assert [one for one in browser.messages() if "/data/log" not in one] == []
        browser.look(width=1300)
        _narrows_down(browser, page)
        _follows(browser, page, made)


def _narrows_down(browser: Browser, page: Background) -> None:
    """A condition, a brush and the table say the same."""
    browser.open(page.address + "sweep?name=made")
    browser.until("document.querySelectorAll('#list tbody tr').length === 24")
    browser.run(
        "document.querySelector('input.where').value = 'bits == 2';"
        "document.querySelector('input.where').dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter'}))"
    )
    browser.until("document.querySelectorAll('#list tbody tr').length === 6")
    browser.run(
        "const axis = document.querySelector('[aria-label=\"Brush optimizer\"]');"
        "for (let i = 0; i < 20; i += 1) axis.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowUp'}))"
    )
    browser.until("document.querySelectorAll('#list tbody tr').length === 3")
    assert "3 of 24 jobs" in browser.run("return document.querySelector('.explore .count').textContent")
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
    browser.until("[...document.querySelectorAll('#report td')].some(one => one.textContent === '12')")
    root = made.home.root
    root.rename(root.with_suffix(".away"))
    browser.until("!document.getElementById('away').hidden")
    root.with_suffix(".away").rename(root)
    browser.until("document.getElementById('away').hidden && document.getElementById('pulse').textContent === 'live'")
    assert browser.run(f"return {done}") == "12 of 24"
