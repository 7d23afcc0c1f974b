"""A sweep as asked: fixed settings, axes, and the ordered jobs that they span."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeps.errors import InputError, nearest
from sweeps.job import Job
from sweeps.settings import Scalar, Setting
from sweeps.training import Training


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis of a grid: its values, or its values for each value of the setting `by`."""

    name: str
    values: tuple[Setting, ...] = ()
    by: str | None = None
    branches: tuple[tuple[str, tuple[Setting, ...]], ...] = ()

    def at(self, point: Mapping[str, Any], place: str) -> tuple[Setting, ...]:
        """The values of this axis where the settings of `point` are given."""
        if self.by is None:
            return self.values
        value = point.get(self.by)
        for key, values in self.branches:
            if key == str(value):
                return values
        raise InputError(
            f"no values for {self.by} = {value!r}",
            place=f"{place}: axes.{self.name}",
            allowed="given: " + ", ".join(key for key, _ in self.branches),
        )


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A resolved sweep. Its jobs are the product of the axes: the later an axis, the faster it runs, and an
    axis that depends on another runs fastest."""

    name: str
    title: str
    fixed: tuple[tuple[str, Setting], ...]
    axes: tuple[Axis, ...]
    tables: tuple[str, ...] = ()
    keep: str = "all"
    place: str = ""
    """Where it was read, for messages."""

    def jobs(self) -> list[Job]:
        """Every job of the sweep, in order, each once."""
        jobs: dict[str, Job] = {}
        used: set[str] = set()
        given: set[str] = set()
        for point in self._points():
            used |= Training.uses(point)
            given |= point.keys()
            job = Job(training=Training.from_settings(point, place=self.place))
            jobs.setdefault(job.identity, job)
        if unknown := sorted(given - used):
            raise InputError(f"{unknown[0]!r} is not a setting", place=self.place, allowed=nearest(unknown[0], used))
        return list(jobs.values())

    def _points(self) -> Iterator[dict[str, Any]]:
        """The grid's points. An axis that depends on another is resolved once that one is fixed."""
        free = [axis for axis in self.axes if axis.by is None]
        bound = [axis for axis in self.axes if axis.by is not None]
        for values in itertools.product(*(axis.values for axis in free)):
            outer = dict(self.fixed) | {axis.name: value for axis, value in zip(free, values, strict=True)}
            for inner in itertools.product(*(axis.at(outer, self.place) for axis in bound)):
                yield outer | {axis.name: value for axis, value in zip(bound, inner, strict=True)}

    def to_json(self) -> str:
        """Canonical JSON of the resolved specification, from which `from_json` makes an equal one."""
        return json.dumps(self._content(), sort_keys=True, separators=(",", ":"), allow_nan=False)

    def _content(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "title": self.title,
            "fixed": dict(self.fixed),
            "axes": [_axis_content(axis) for axis in self.axes],
            "tables": self.tables,
            "keep": self.keep,
        }

    @classmethod
    def from_json(cls, text: str, *, place: str) -> Spec:
        content = json.loads(text)
        return cls(
            name=content["name"],
            title=content["title"],
            fixed=tuple((name, _frozen(value)) for name, value in content["fixed"].items()),
            axes=tuple(_axis_from(one) for one in content["axes"]),
            tables=tuple(content["tables"]),
            keep=content["keep"],
            place=place,
        )


def variant(jobs: Sequence[Job]) -> str:
    """8 hex digits that name a variant of a sweep: the hash of its jobs, in their order."""
    return hashlib.sha256(" ".join(job.identity for job in jobs).encode()).hexdigest()[:8]


def _axis_content(axis: Axis) -> dict[str, Any]:
    if axis.by is None:
        return {"name": axis.name, "values": axis.values}
    return {"name": axis.name, "by": axis.by, "branches": [[key, values] for key, values in axis.branches]}


def _axis_from(content: Mapping[str, Any]) -> Axis:
    if "by" not in content:
        return Axis(name=content["name"], values=tuple(_frozen(value) for value in content["values"]))
    branches = tuple((key, tuple(_frozen(value) for value in values)) for key, values in content["branches"])
    return Axis(name=content["name"], by=content["by"], branches=branches)


def _frozen(value: Scalar | Sequence[int]) -> Setting:
    return tuple(value) if isinstance(value, list) else value  # type: ignore[return-value]
