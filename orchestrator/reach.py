"""Whether agents on other machines can reach the registry: asked before anything is registered."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

from qsweep.db.home import Home
from qsweep.db.urls import Address, parse_url
from qsweep.sweeps.errors import InputError

SERVE = "qsweep db serve --dir /local/disk/qsweep --host 0.0.0.0"


def check_reach(home: Home, hosts: Iterable[str]) -> None:
    """Raises InputError if agents run on `hosts` other than this one and could not share the registry.

    Only names are compared: whether a firewall lies between, the agents find out.
    """
    elsewhere = sorted(one for one in set(hosts) if not is_here(one))
    if not elsewhere:
        return
    registry = parse_url(home.registry)
    named = ", ".join(elsewhere[:3]) + (f" and {len(elsewhere) - 3} more" if len(elsewhere) > 3 else "")
    if registry.url is None:
        raise InputError(
            f"agents on other machines ({named}) can't share a SQLite file: its locks hold on one machine alone, "
            "and two agents would both believe that they hold a job",
            place=f"registry {registry.path}",
            allowed=f"start a Postgres with `{SERVE}` and pass the URL that it prints as --registry",
        )
    if is_loopback(registry):
        host = registry.url.host
        raise InputError(
            f"agents on other machines ({named}) can't reach a registry at {host}, which is each machine itself",
            place="--registry",
            allowed=f"name this machine, {socket.gethostname()}, where the server has to listen (`{SERVE}` does)",
        )


def is_here(host: str) -> bool:
    """Whether a node of that name is this machine."""
    own = socket.gethostname()
    return host in (own, "localhost") or host.partition(".")[0] == own.partition(".")[0]


def is_loopback(registry: Address) -> bool:
    """Whether the address of a database names whichever machine reads it."""
    url = registry.url
    if url is None:
        return True
    host = url.host or str(url.query.get("host", ""))
    if host in ("", "localhost") or host.startswith("/"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
