"""What a user means by the name of a sweep: one function, which every command and every answer follows."""

from __future__ import annotations

from collections.abc import Sequence

from qsweep.db.rows import Sweep
from qsweep.sweeps.errors import InputError, nearest


class AmbiguousName(InputError):
    """A bare NAME that several variants could be meant by. `variants`: the one launched last first."""

    def __init__(self, name: str, variants: Sequence[Sweep]) -> None:
        self.variants = tuple(variants)
        titles = ", ".join(one.title for one in variants)
        super().__init__(
            f"{name!r} was launched in {len(variants)} variants, and never as written", allowed=f"name one: {titles}"
        )


def meant(text: str, sweeps: Sequence[Sweep]) -> Sweep:
    """The sweep that `text` names among these, which are ordered by their launches, the last one first.

    `NAME@VARIANT` is that variant. A bare NAME is the sweep as written, whatever was launched since: of several
    versions of a sweep file, the one launched last. If NAME was only launched in variants, it means the only one.
    Raises AmbiguousName if there are several, InputError if there is none.
    """
    name, _, label = text.partition("@")
    found = [one for one in sweeps if one.name == name and label in ("", one.label)]
    if not found:
        raise _unknown(text, sweeps)
    if label or len(found) == 1:
        return found[0]
    written = [one for one in found if one.written_at is not None]
    if written:
        return max(written, key=lambda one: (one.written_at or 0.0, one.id))
    # Before registries noted it, a tuning run was a variant of the sweep that it tuned.
    plain = [one for one in found if not one.is_tuning] or found
    return _as_built_in(name, plain) or _only(name, plain)


def is_meant(sweep: Sweep, sweeps: Sequence[Sweep]) -> bool:
    """Whether the bare name of this sweep means it, among these."""
    try:
        return meant(sweep.name, sweeps).id == sweep.id
    except AmbiguousName:
        return False


def _only(name: str, variants: Sequence[Sweep]) -> Sweep:
    if len(variants) > 1:
        raise AmbiguousName(name, variants)
    return variants[0]


def _as_built_in(name: str, variants: Sequence[Sweep]) -> Sweep | None:
    """The variant that is the built-in sweep of this name: how older registries tell which one is as written."""
    if len(variants) < 2:
        return None
    from qsweep.sweeps.files import (  # here: pydantic takes longer to import than most look-ups
        builtin_names,
        read_sweep,
    )
    from qsweep.sweeps.spec import variant

    if name not in builtin_names():
        return None
    label = variant(read_sweep(name).jobs())
    return next((one for one in variants if one.label == label), None)


def _unknown(text: str, sweeps: Sequence[Sweep]) -> InputError:
    known = [one.title for one in sweeps]
    known += sorted({one.name for one in sweeps})
    allowed = nearest(text, known) if known else "none was launched yet"
    return InputError(f"no sweep {text!r} was launched here", allowed=allowed)
