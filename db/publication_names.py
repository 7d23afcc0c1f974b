"""The names of publications, without SQLAlchemy: agents of bundles make them too."""

from __future__ import annotations

import uuid

MARK, DIGITS = 8, 12
"""Hex digits in a publication's name: of the registry's incarnation, and drawn at random."""


def new_name(owner: str, incarnation: str) -> str:
    """A name that no publication has had, of an owner in this incarnation of the registry."""
    return f"{owner}-{incarnation[:MARK]}{uuid.uuid4().hex[:DIGITS]}"


def is_of(digits: str, incarnation: str) -> bool:
    """Whether these digits of a publication's name are of this incarnation."""
    return len(digits) == MARK + DIGITS and digits.startswith(incarnation[:MARK])
