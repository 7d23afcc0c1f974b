"""Who may ask the live page: the law of its every request, before anything is read.

1. The Host is one by which this machine is called: a name of somebody else's that resolves to it is not (DNS
   rebinding).
2. What another site's page asks for (Origin, Sec-Fetch-Site) is refused; a link that a person follows is not.
3. Where a token is asked for, it comes once in the address, or as `Authorization: token …`, and then as a cookie that
   no script reads and no other site sends.
4. What is posted is JSON, which no form of another site can send.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
METHODS = ("GET", "HEAD", "POST")
TOKEN = "token"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Of every answer; a page's Content-Security-Policy is its own."""


@dataclass(frozen=True, kw_only=True)
class Law:
    """Whom a server answers. `names` are the hosts by which it may be called; an empty `token` is none."""

    names: frozenset[str]
    literals: bool = False
    """Whether it may be called by any IP address: an address can't be rebound."""
    token: str = ""
    cookie: str = "qsweep"

    def knows(self, host: str) -> bool:
        """Whether this Host header, with or without a port, names this server."""
        name = _name_of(host)
        return name in self.names or (self.literals and _is_address(name))

    def admits(self, given: str | None) -> bool:
        return not self.token or (given is not None and secrets.compare_digest(given.encode(), self.token.encode()))


def law_of(host: str, *, token: str, port: int) -> Law:
    """The law of a server that is bound to this host."""
    here = is_loopback(host)
    own = () if here else (host, socket.gethostname(), socket.getfqdn())
    return Law(
        names=LOOPBACK | {one.lower() for one in own if one},
        literals=not here,
        token=token,
        cookie=f"qsweep-{port}",
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what is bound there."""
    return host.lower() == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


class Guard:
    """The application, for those alone who may ask."""

    def __init__(self, app: ASGIApp, law: Law) -> None:
        self._app, self._law = app, law

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # no WebSocket is served
            await send({"type": "websocket.close", "code": 1008})
            return

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                there = {name.lower() for name, _ in message["headers"]}
                more = ((name.lower().encode(), value.encode()) for name, value in HEADERS.items())
                message["headers"] = [*message["headers"], *(one for one in more if one[0] not in there)]
            await send(message)

        answer = self._refusal(Request(scope))
        await (self._app if answer is None else answer)(scope, receive, sealed)

    def _refusal(self, request: Request) -> Response | None:
        """What is answered in place of the page; None to those who may ask."""
        headers = request.headers
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._law.knows(hosts[0]):
            return _refused(403, "this server is not called so: its address is the one that qsweep ui printed")
        if request.method not in METHODS:
            return _refused(405, "this page is asked by GET and POST")
        if _is_foreign(headers.get("origin"), hosts[0]) or _is_of_another_site(request):
            return _refused(403, "another site's page asked for this")
        if request.method == "POST" and headers.get("content-type", "").partition(";")[0] != "application/json":
            return _refused(415, "what is posted here is application/json")
        return self._unknown(request)

    def _unknown(self, request: Request) -> Response | None:
        """What those are told who bring no token."""
        law = self._law
        if not law.token:
            return None
        given = request.query_params.get(TOKEN)
        if given is not None and request.method == "GET" and law.admits(given):
            rest = [(name, value) for name, value in request.query_params.multi_items() if name != TOKEN]
            # One slash alone: `//name` would be another host.
            path = "/" + request.url.path.lstrip("/\\") + (f"?{urlencode(rest)}" if rest else "")
            answer = RedirectResponse(path, status_code=303)
            answer.set_cookie(law.cookie, law.token, httponly=True, samesite="strict", path="/")
            return answer
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        brought = (request.cookies.get(law.cookie), value if scheme.lower() == TOKEN else None)
        if any(one is not None and law.admits(one) for one in brought):
            return None
        return _refused(401, "this page asks for its token: open the address that qsweep ui printed")


def _refused(status: int, words: str) -> Response:
    return PlainTextResponse(f"qsweep: {words}\n", status_code=status)


def _is_foreign(origin: str | None, host: str) -> bool:
    """Whether a page of another origin asks; `null` is one."""
    if origin is None:
        return False
    try:
        return urlsplit(origin).netloc.lower() != host.lower()
    except ValueError:
        return True


def _is_of_another_site(request: Request) -> bool:
    """Whether a browser says so. A link that is followed to a page is none of its site's business."""
    site, mode = request.headers.get("sec-fetch-site"), request.headers.get("sec-fetch-mode")
    if site in (None, "same-origin", "none"):
        return False
    return not (mode == "navigate" and request.method == "GET")


def _name_of(host: str) -> str:
    """The name in a Host header, without its port and the brackets of IPv6."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def new_token() -> str:
    """A token that can't be guessed: 192 bits."""
    return secrets.token_hex(24)
