"""The URL of a registry: what it may be, and how it is shown without its password."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from qsweep.sweeps.errors import InputError

if TYPE_CHECKING:
    import sqlalchemy as sa

SECRET_KEYS = ("password", "sslpassword", "passfile")


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a registry is: the path of a SQLite file, or the URL of a Postgres database."""

    path: Path | None = None
    url: sa.URL | None = None

    @property
    def shown(self) -> str:
        """The URL (for SQLite the path) without its secrets."""
        if self.url is None:
            return str(self.path)
        hidden = {key: "***" if key in SECRET_KEYS else value for key, value in self.url.query.items()}
        return self.url.set(query=hidden).render_as_string(hide_password=True).replace(quote("***"), "***")

    @property
    def secrets(self) -> list[str]:
        if self.url is None:
            return []
        given = [self.url.password, *(self.url.query.get(key) for key in SECRET_KEYS)]
        return [str(one) for one in given if one]


def parse_url(url: str | Path) -> Address:
    """The address of a registry. A text without `://` is the path of a SQLite file. Raises InputError."""
    text = str(url)
    return _parsed(text) if "://" in text else Address(path=Path(text).expanduser().absolute())


def _parsed(text: str) -> Address:
    import sqlalchemy as sa  # here: a path, the usual case, does not need it
    from sqlalchemy.exc import ArgumentError

    allowed = "allowed: the path of a SQLite file, or postgresql+psycopg://user:password@host:port/database"
    try:
        parsed = sa.make_url(text)
    except (ArgumentError, ValueError):
        # Not the text itself: a mistyped URL still holds its password.
        raise InputError("the registry's URL can't be read", allowed=allowed) from None
    scheme = parsed.get_backend_name()
    if scheme in ("postgresql", "postgres"):
        return Address(url=parsed.set(drivername="postgresql+psycopg"))
    if scheme == "sqlite" and "?" in text:
        raise InputError(
            "what follows the ? would be lost: a SQLite registry has no options",
            place="registry URL",
            allowed="if it belongs to the path, give the path of the file itself, or write %3F",
        )
    if scheme == "sqlite" and parsed.database and parsed.database != ":memory:":
        return Address(path=Path(parsed.database).expanduser().absolute())
    raise InputError(f"{scheme!r} is not a supported registry scheme", place="registry URL", allowed=allowed)
