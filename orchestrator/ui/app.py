"""The live page's answers: pages whose first content is in them, their data as JSON, events, and acts if allowed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import cache, partial
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.types
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from qsweep.orchestrator.ui.actions import Actions
from qsweep.orchestrator.ui.desk import Desk
from qsweep.orchestrator.ui.guard import Guard, Law
from qsweep.orchestrator.ui.live import Live
from qsweep.reports.charts.live import answer_chart
from qsweep.reports.evidence import gather
from qsweep.reports.formats import RowFormat
from qsweep.reports.listing import written
from qsweep.reports.page import render_page
from qsweep.reports.page.charts import chart_content
from qsweep.reports.page.document import asset, embedded, hash_of, template
from qsweep.reports.query import Bounds, describe_columns, run_query
from qsweep.sweeps.errors import InputError, QsweepError
from qsweep.sweeps.text import as_json, clean

Answer = TypeVar("Answer")

SCRIPTS = ("charts.js", "parallel.js", "page.js", "ui.js")
STYLES = ("page.css", "ui.css")
PAGES = {"/": "home", "/sweep": "sweep", "/job": "job", "/agents": "agents", "/sql": "sql"}
BOUNDS = Bounds(seconds=20.0, memory="1GB", rows=10_000)
"""What a query of the SQL page may take."""
MOST_POSTED = 100_000
"""Bytes of a request's body."""
NUMBER = "Qsweep-Number"
"""The header that says of which moment an answer is."""
FORMATS = {"csv": (RowFormat.CSV, "text/csv"), "json": (RowFormat.JSON, "application/json")}


@cache
def _assets() -> tuple[Markup, Markup]:
    style, script = ("\n".join(asset(name) for name in names) for names in (STYLES, SCRIPTS))
    return Markup(style), Markup(script)


def policy(*, frames: str = "'none'") -> str:
    """The report's own Content-Security-Policy, and that data are asked of this server alone."""
    style, script = _assets()
    return (
        f"default-src 'none'; script-src '{hash_of(script)}'; style-src '{hash_of(style)}'; img-src data:; "
        f"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors {frames}"
    )


class Site:
    """The routes over one desk. Everything that the registry is asked goes through one thread; what takes long
    (reports, queries, lists of jobs) through two others, which open it for themselves."""

    def __init__(self, desk: Desk, *, actions: Actions | None = None, frames: str = "'none'") -> None:
        self._desk, self._actions = desk, actions
        self._policy, self._frames = policy(frames=frames), frames
        self._quick, self._slow = ThreadPoolExecutor(1, "qsweep-ui-quick"), ThreadPoolExecutor(2, "qsweep-ui-slow")
        self.live = Live(partial(self._at_once, desk.pulse))

    async def _at_once(self, ask: Callable[[], Answer]) -> Answer:
        return await asyncio.get_running_loop().run_in_executor(self._quick, ask)

    async def _later(self, ask: Callable[[], Answer]) -> Answer:
        return await asyncio.get_running_loop().run_in_executor(self._slow, ask)

    def app(self, law: Law) -> Guard:
        """The application, behind its law."""
        routes = [Route(path, partial(self._page, name)) for path, name in PAGES.items()]
        routes += [
            Route("/report", self._report_page),
            Route("/events", self._events),
            Route("/data/sql", self._sql, methods=["POST"]),
            Route("/data/curves", self._curves, methods=["POST"]),
            Route("/data/{what}", self._data),
        ]
        if self._actions is not None:
            routes.append(Route("/act", self._act, methods=["POST"]))

        @asynccontextmanager
        async def life(app: Starlette) -> AsyncIterator[None]:
            yield
            await self._at_once(self._desk.close)
            self._quick.shutdown(wait=False, cancel_futures=True)
            self._slow.shutdown(wait=False, cancel_futures=True)

        handlers: Mapping[Any, Any] = {QsweepError: _said, OSError: _said, HTTPException: _http}
        return Guard(Starlette(routes=routes, lifespan=life, exception_handlers=handlers), law)

    async def _page(self, name: str, request: Request) -> Response:
        """A page with its first content. What can't be read is said on it: it may be there later."""
        asked = dict(request.query_params)
        problem, content, number, status = "", "null", -1, 200
        try:
            number, found = await self._found(name, asked)
            content = found.decode()
        except (QsweepError, OSError) as error:
            problem, status = clean(str(error)), 404 if isinstance(error, InputError) else 503
        style, script = _assets()
        live = {
            "page": name, "asked": asked, "content": json.loads(content), "number": number, "problem": problem,
            "place": self._desk.place, "acts": self._actions is not None,
        }  # fmt: skip
        page = template("ui.html").render(
            page=name,
            title=asked.get("name") or asked.get("id") or name,
            data=embedded({"live": live, "charts": {}}),
            style=style,
            script=script,
        )
        return HTMLResponse(page, status, headers={"Content-Security-Policy": self._policy})

    async def _found(self, what: str, asked: Mapping[str, str]) -> tuple[int, bytes]:
        """The content of a page or of a part of it, made once for all who ask for the same."""
        desk, name, identity = self._desk, asked.get("name", ""), asked.get("id", "")
        quick: dict[str, Callable[[], Any]] = {
            "home": desk.home,
            "sweep": lambda: desk.sweep(name),
            "job": lambda: desk.job(identity),
            "log": lambda: desk.log(identity),
            "agents": desk.agents,
            "where": lambda: desk.chosen(name, asked.get("where", "")),
        }
        slow: dict[str, Callable[[], Any]] = {
            "jobs": lambda: desk.jobs(name),
            "compared": lambda: desk.compared(identity, asked.get("with", "")),
            "report": lambda: self._report(name),
            "sql": self._schema,
        }
        if what in quick:
            ask: Callable[[], Awaitable[Any]] = partial(self._at_once, quick[what])
        elif what in slow:
            ask = partial(self._later, slow[what])
        else:
            raise HTTPException(404)

        return await self._kept((what, *sorted(asked.items())), ask)

    async def _kept(self, key: Hashable, ask: Callable[[], Awaitable[Any]]) -> tuple[int, bytes]:
        async def made() -> bytes:
            return as_json(cleaned(await ask())).encode()

        return await self.live.kept(key, made)

    async def _data(self, request: Request) -> Response:
        number, content = await self._found(request.path_params["what"], dict(request.query_params))
        return Response(content, media_type="application/json", headers={NUMBER: str(number)})

    def _rendered(self, name: str) -> str:
        with self._desk.source(name) as source:
            return render_page(gather(source))

    def _report(self, name: str) -> dict[str, Any]:
        """The report's sections and what their charts draw."""
        page = self._rendered(name)
        main = page.partition("<main>")[2].rpartition("</main>")[0]
        data = page.partition('<script type="application/json" id="data">')[2].partition("</script>")[0]
        return {"main": main, "data": json.loads(data)}

    async def _report_page(self, request: Request) -> Response:
        """The report as `qsweep report` writes it, with its own policy in it."""
        page = await self._later(partial(self._rendered, request.query_params.get("name", "")))
        return HTMLResponse(page, headers={"Content-Security-Policy": f"frame-ancestors {self._frames}"})

    def _schema(self) -> dict[str, Any]:
        return {"columns": describe_columns().to_pylist(), "seconds": BOUNDS.seconds, "rows": BOUNDS.rows}

    async def _sql(self, request: Request) -> Response:
        asked = await _posted(request)
        sql, form = str(asked.get("sql") or ""), str(asked.get("format") or "")
        if form and form not in FORMATS:
            raise InputError(f"there is no format {form!r}", place="format", allowed=f"allowed: {', '.join(FORMATS)}")

        def answer() -> tuple[Any, tuple[str, ...]]:
            with self._desk.sources() as sources:
                found = run_query(sql, sources, BOUNDS)
            return found.table, found.notes

        table, notes = await self._later(answer)
        if form:
            kind, media = FORMATS[form]
            name = f'attachment; filename="query.{form}"'
            return Response(written(table, kind), media_type=media, headers={"Content-Disposition": name})
        columns = [{"name": one.name, "type": str(one.type)} for one in table.schema]
        numeric = [is_number(one.type) for one in table.schema]
        rows = list(zip(*(column.to_pylist() for column in table.columns), strict=True))
        chart = answer_chart(table.schema.names, numeric, rows)
        content = {"columns": columns, "numeric": numeric, "rows": rows, "notes": notes,
                   "chart": None if chart is None else chart_content(chart)}  # fmt: skip
        return Response(as_json(cleaned(content)), media_type="application/json")

    async def _curves(self, request: Request) -> Response:
        """The curves of groups of a sweep's jobs: `{"name": …, "groups": [[what it is called, [identity …]] …]}`."""
        asked = await _posted(request)
        try:
            if not all(isinstance(jobs, list) for _, jobs in asked["groups"]):
                raise TypeError
            groups = [(str(called)[:80], [str(one) for one in jobs]) for called, jobs in asked["groups"]]
        except (KeyError, TypeError, ValueError):
            raise InputError("groups of jobs are asked for, each with its name", place="groups") from None
        ask = partial(self._later, partial(self._desk.curves, str(asked.get("name") or ""), groups))
        number, content = await self._kept(("curves", as_json(asked)), ask)
        return Response(content, media_type="application/json", headers={NUMBER: str(number)})

    async def _act(self, request: Request) -> Response:
        """Say what an act would do; do it once the same is posted with the words that were answered."""
        assert self._actions is not None
        asked = await _posted(request)
        act, name, agreed = (str(asked.get(one) or "") for one in ("act", "name", "agreed"))
        done = await self._at_once(partial(self._actions.act, act, name, agreed))
        await self.live.look()
        return JSONResponse(cleaned(done))

    async def _events(self, request: Request) -> Response:
        return StreamingResponse(self.live.moments(), media_type="text/event-stream")


async def _posted(request: Request) -> dict[str, Any]:
    """What was posted as JSON. Raises InputError for anything else."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_POSTED:
            raise InputError(f"more than {MOST_POSTED:,} bytes were posted", place="request")
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise InputError("what was posted is no object of JSON", place="request")
    return content


def is_number(kind: pa.DataType) -> bool:
    """Whether values of this type stand on an axis."""
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    return any(one(kind) for one in tests)


def cleaned(content: Any) -> Any:
    """The content without escape sequences in its texts: they may be of anyone's."""
    if isinstance(content, str):
        return clean(content)
    if isinstance(content, Mapping):
        return {cleaned(name) if isinstance(name, str) else name: cleaned(one) for name, one in content.items()}
    return [cleaned(one) for one in content] if isinstance(content, list | tuple) else content


async def _said(request: Request, error: Exception) -> Response:
    status = 400 if isinstance(error, InputError) else 503
    return JSONResponse({"problem": clean(str(error))}, status)


async def _http(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return JSONResponse({"problem": "there is no such page here"}, status)
