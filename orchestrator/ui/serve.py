"""Listening for the live page: the socket, its address with the token, and the server on it."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from qsweep.db.home import Home
from qsweep.reports.escaping import html as escape
from qsweep.sweeps.errors import InputError

if TYPE_CHECKING:
    from qsweep.orchestrator.ui.app import Site
    from qsweep.orchestrator.ui.guard import Law

PORT = 8470
"""Where it listens if nobody says: there, or at the next port that is free."""
TRIED = 20
NOTEBOOKS = "http://localhost:* http://127.0.0.1:*"
"""Whose pages show it in a notebook, as a Content-Security-Policy says it."""
EXTRA = "the live page needs packages that are not installed; get them by: pip install 'qsweep[ui]'"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a user asked for."""

    home: Home
    bundle: Path | None = None
    host: str = "127.0.0.1"
    port: int | None = None
    actions: bool = False
    frames: str = "'none'"
    """Whose pages may show it inside of them, as a Content-Security-Policy says it."""
    token: bool = False
    """Whether it asks for a token even where only this machine reaches it."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """A server that is ready: its address for a browser, and what runs it until it is told to end."""

    address: str
    server: Any
    listener: socket.socket
    site: Site

    def run(self) -> None:
        try:
            self.server.run(sockets=[self.listener])
        finally:
            self.listener.close()


def check_installed() -> None:
    """Raise InputError with the command that installs what the page needs, if it is missing."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise InputError(EXTRA, place="qsweep ui") from None


def prepared(wanted: Wanted) -> Served:
    """Open what is shown and listen. Raises InputError before anything is served."""
    check_installed()
    import uvicorn

    from qsweep.orchestrator.ui.actions import Actions
    from qsweep.orchestrator.ui.app import Site
    from qsweep.orchestrator.ui.desk import BundleDesk, RegistryDesk
    from qsweep.orchestrator.ui.guard import is_loopback, law_of, new_token

    if wanted.actions and wanted.bundle is not None:
        raise InputError("nothing can be done to a bundle", place="--allow-actions", allowed="leave it out with --from")
    desk = RegistryDesk(wanted.home) if wanted.bundle is None else BundleDesk(wanted.bundle)
    try:
        desk.pulse()  # a home that is not there is said now
    finally:
        desk.close()
    listener = _listen(wanted.host, wanted.port)
    port = listener.getsockname()[1]
    # Whatever may change something asks for a token: other users of this machine reach its ports too.
    secret = new_token() if wanted.token or wanted.actions or not is_loopback(wanted.host) else ""
    law = law_of(wanted.host, token=secret, port=port)
    site = Site(desk, actions=Actions(wanted.home) if wanted.actions else None, frames=wanted.frames)
    config = uvicorn.Config(
        site.app(law),
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        date_header=False,
        ws="none",
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )
    return Served(address=_address(wanted.host, port, law), server=uvicorn.Server(config), listener=listener, site=site)


class Background:
    """The page served from a thread of this process, until it is closed. A notebook shows it where it stands."""

    def __init__(self, wanted: Wanted, *, height: int = 720) -> None:
        """Raises InputError before anything is served. `height` in CSS pixels."""
        self._served = prepared(wanted)
        self._height = height
        self.address = self._served.address
        self._thread = Thread(target=self._served.run, name="qsweep-ui", daemon=True)
        self._thread.start()

    @property
    def site(self) -> Site:
        """What is served."""
        return self._served.site

    def close(self) -> None:
        """Serve no more."""
        self._served.server.should_exit = True
        self._thread.join(10)

    def __repr__(self) -> str:
        return f"qsweep ui at {self.address}"

    def _repr_html_(self) -> str:
        return f'<iframe src="{escape(self.address)}" width="100%" height="{self._height}" title="qsweep"></iframe>'


def _listen(host: str, port: int | None) -> socket.socket:
    """A socket that listens there. Raises InputError."""
    ports = range(PORT, PORT + TRIED) if port is None else (port,)
    for one in ports:
        try:
            family = socket.getaddrinfo(host, one, type=socket.SOCK_STREAM)[0][0]
            return socket.create_server((host, one), family=family, backlog=128)
        except (OSError, UnicodeError) as error:
            if getattr(error, "errno", None) == errno.EADDRINUSE and one != ports[-1]:
                continue
            if getattr(error, "errno", None) == errno.EADDRINUSE:
                allowed = "choose another by --port, or 0 for any that is free"
                raise InputError(f"port {one} is in use", place="--port", allowed=allowed) from None
            place = "--port" if isinstance(error, PermissionError) else "--host"
            reason = getattr(error, "strerror", None) or str(error)
            raise InputError(f"can't listen on {host} port {one}: {reason}", place=place) from None
    raise AssertionError("one port at least is tried")


def _address(host: str, port: int, law: Law) -> str:
    shown = socket.gethostname() if host in ("0.0.0.0", "::") else host
    shown = f"[{shown}]" if ":" in shown else shown
    return f"http://{shown}:{port}/" + (f"?token={quote(law.token)}" if law.token else "")
