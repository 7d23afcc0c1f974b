"""The URL of a registry: what it may be, and how it is shown without its password."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError

from sweeps.errors import InputError


def parse_url(url: str | Path) -> sa.URL:
    """The SQLAlchemy URL of a registry. A text without `://` is the path of a SQLite file."""
    text = str(url)
    allowed = "allowed: the path of a SQLite file, or postgresql+psycopg://user:password@host:port/database"
    if "://" not in text:
        return sa.URL.create("sqlite", database=str(Path(text).expanduser().absolute()))
    try:
        parsed = sa.make_url(text)
    except (ArgumentError, ValueError):
        # Not the text itself: a mistyped URL still holds its password.
        raise InputError("the registry's URL can't be read", allowed=allowed) from None
    scheme = parsed.get_backend_name()
    if scheme in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    if scheme == "sqlite" and "?" in text:
        raise InputError(
            "what follows the ? would be lost: a SQLite registry has no options",
            place="registry URL",
            allowed="if it belongs to the path, give the path of the file itself, or write %3F",
        )
    if scheme == "sqlite" and parsed.database and parsed.database != ":memory:":
        return sa.URL.create("sqlite", database=str(Path(parsed.database).expanduser().absolute()))
    raise InputError(f"{scheme!r} holds no registry", place="registry URL", allowed=allowed)


SECRET_KEYS = ("password", "sslpassword", "passfile")


def shown(url: sa.URL) -> str:
    """The URL (for SQLite the path) without its secrets."""
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    hidden = {key: "***" if key in SECRET_KEYS else value for key, value in url.query.items()}
    return url.set(query=hidden).render_as_string(hide_password=True).replace(quote("***"), "***")


def secrets(url: sa.URL) -> list[str]:
    given = [url.password, *(url.query.get(key) for key in SECRET_KEYS)]
    return [str(one) for one in given if one]
