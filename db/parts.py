"""The parts of a registry: small classes whose methods are each one transaction of their own."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

if TYPE_CHECKING:
    from qsweep.db.asking import Asking
    from qsweep.db.connection import Database
    from qsweep.db.transaction import Transaction

Own = TypeVar("Own", bound="Part")
Given = ParamSpec("Given")
Answer = TypeVar("Answer")


class Part:
    """A part of a registry.

    Its decorated methods are written with the open transaction as their first argument and called without it. Each
    call is one transaction, which is repeated while the database is locked, restarting or unreachable: it must be safe
    to run twice, so it is given collections and no iterators.
    """

    def __init__(self, database: Database) -> None:
        self._database = database


def writes(method: Callable[Concatenate[Own, Transaction, Given], Answer]) -> Callable[Concatenate[Own, Given], Answer]:
    """A method that changes rows, under SQLite's write lock from its first statement."""

    @wraps(method)
    def call(self: Own, /, *given: Given.args, **named: Given.kwargs) -> Answer:
        return self._database.write(lambda transaction: method(self, transaction, *given, **named))

    return call


def reads(method: Callable[Concatenate[Own, Transaction, Given], Answer]) -> Callable[Concatenate[Own, Given], Answer]:
    """A method that reads (law 5): it takes no lock, and on SQLite sees one and the same state throughout."""

    @wraps(method)
    def call(self: Own, /, *given: Given.args, **named: Given.kwargs) -> Answer:
        return self._database.read(lambda transaction: method(self, transaction, *given, **named))

    return call


def reads_at_once(
    method: Callable[Concatenate[Own, Transaction, Given], Answer],
) -> Callable[Concatenate[Own, Given], Answer]:
    """A method that reads, and sees one and the same state throughout on Postgres too."""

    @wraps(method)
    def call(self: Own, /, *given: Given.args, **named: Given.kwargs) -> Answer:
        return self._database.snapshot(lambda transaction: method(self, transaction, *given, **named))

    return call


def looks(method: Callable[Concatenate[Own, Asking, Given], Answer]) -> Callable[Concatenate[Own, Given], Answer]:
    """A method that reads by plain SQL, which needs no SQLAlchemy, and sees one and the same state throughout."""

    @wraps(method)
    def call(self: Own, /, *given: Given.args, **named: Given.kwargs) -> Answer:
        return self._database.look(lambda asking: method(self, asking, *given, **named))

    return call


def notes(method: Callable[Concatenate[Own, Asking, Given], Answer]) -> Callable[Concatenate[Own, Given], Answer]:
    """A method that writes one statement by plain SQL, which needs no SQLAlchemy."""

    @wraps(method)
    def call(self: Own, /, *given: Given.args, **named: Given.kwargs) -> Answer:
        return self._database.note(lambda asking: method(self, asking, *given, **named))

    return call
