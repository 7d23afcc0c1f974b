"""A sweep as asked: fixed settings, axes, and the ordered jobs that they span."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, TypeAlias

from qsweep.sweeps.calls import Call, is_call
from qsweep.sweeps.chains import with_all_above
from qsweep.sweeps.errors import InputError, nearest
from qsweep.sweeps.job import Job
from qsweep.sweeps.kinds import kind_of
from qsweep.sweeps.measures import Flatness, Measure, Search, asked_of, measure_from
from qsweep.sweeps.settings import Scalar, Setting, names_of
from qsweep.sweeps.text import shortened
from qsweep.sweeps.training import Training
from qsweep.sweeps.tuning import Tuning
from qsweep.sweeps.user_code import UserCode, with_code
from qsweep.sweeps.where import parse_where
from qsweep.sweeps.zero_shot import Synthesis, check_parent, synthesis_from, synthesis_settings

SPANNING = ("fixed", "axes", "measures", "zero_shot", "keep", "user_code")
"""The parts of a specification that decide which jobs it has. (`keep` allows what takes models, or does not.)"""
Entry: TypeAlias = tuple[tuple[str, tuple[Setting, ...]], ...]
"""One entry of `[[measures]]` or `[[zero_shot]]`: its settings with their values, a grid of its own."""


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
    """A resolved sweep. Its jobs are the product of the axes: the later an axis, the faster it runs; one that
    depends on another runs next to that one."""

    name: str
    title: str
    fixed: tuple[tuple[str, Setting], ...]
    axes: tuple[Axis, ...]
    tables: tuple[str, ...] = ()
    declarations: tuple[tuple[str, str], ...] = ()
    """Tables of the sweep's own, declared in files beside it: name and content, as JSON."""
    keep: str = "all"
    """Which trained models stay: all, those with children, or none."""
    measures: tuple[Entry, ...] = ()
    """Measures of each trained model."""
    zero_shot: tuple[Entry, ...] = ()
    """What is made of each trained model without data."""
    compare_with: str | None = None
    """The paper's data set to show beside this sweep's, if the paper does not cover this one."""
    tuning: Tuning | None = None
    """How its points are tried, if it is a tuning run."""
    user_code: tuple[tuple[str, str], ...] = ()
    """The hash of the user's code behind each `file:PATH:NAME` among its values."""
    place: str = ""
    """Where it was read, for messages."""
    sources: tuple[UserCode, ...] = field(default=(), compare=False, repr=False)
    """That code, where the sweep was read from its file: a launch keeps a copy."""

    def jobs(self) -> list[Job]:
        """Every job of the sweep, in order, each once: the trainings, then what stands on them. Raises InputError."""
        return list(self._expansion.jobs)

    @cached_property
    def _expansion(self) -> Expansion:
        """The grid, expanded once in a process, however often the sweep is read from a file or a registry."""
        content = self._content()
        return _expanded(_Span(text=json.dumps([content.get(name) for name in SPANNING], sort_keys=True), spec=self))

    def _expand(self) -> Expansion:
        given = (*dict(self.fixed), *(axis.name for axis in self.axes))
        if is_call(given):
            return self._expand_calls()
        if unknown := sorted(set(given) - Training.known()):
            allowed = nearest(unknown[0], Training.known())
            raise InputError(f"{unknown[0]!r} is not a setting", place=self.place, allowed=allowed)
        jobs: dict[str, Job] = {}
        uses: set[frozenset[str]] = set()
        for point in self._points():
            job = Job(training=Training.from_settings(point, place=self.place))
            jobs.setdefault(job.identity, job)
            uses.add(Training.uses(point))
        used = frozenset[str]().union(*uses)
        if idle := [axis.name for axis in self.axes if axis.name not in used]:
            raise InputError("no job uses this setting", place=f"{self.place}: axes.{idle[0]}")
        trainings = list(jobs.values())
        syntheses = self.declared_syntheses() if jobs else []
        measures = self.declared_measures() if jobs else []
        below = [self._synthesis(parent, one) for parent in trainings for one in syntheses]
        below += [self.child(parent, one) for parent in trainings for one in measures]
        for job in below:
            jobs.setdefault(job.identity, job)
        return Expansion(jobs=tuple(jobs.values()), used=used)

    def _expand_calls(self) -> Expansion:
        if self.measures:
            place = f"{self.place}: measures"
            raise InputError("measures are of trained models, and a function leaves none", place=place)
        jobs: dict[str, Job] = {}
        for point in self._points():
            job = Job.of_call(Call.from_settings(point, place=self.place))
            jobs.setdefault(job.identity, job)
        used = frozenset((*dict(self.fixed), *(one.name for one in self.axes)))
        return Expansion(jobs=tuple(jobs.values()), used=used)

    @property
    def calls(self) -> bool:
        """Whether its jobs call the user's code, and train nothing that qsweep knows of."""
        return is_call((*dict(self.fixed), *(axis.name for axis in self.axes)))

    def trainings(self) -> list[Job]:
        """Those of its jobs that train a model: every other stands on one of them. Raises InputError."""
        return [job for job in self._expansion.jobs if job.parent is None]

    def child(self, parent: Job, measure: Measure) -> Job:
        """The job that takes this measure of the parent's model. Raises InputError."""
        try:
            asked = asked_of(measure, parent.training)
        except InputError as error:
            place = f"{self.place}: measures: {error.place}"
            raise InputError(error.problem, place=place, allowed=error.allowed) from None
        return Job(training=parent.training, kind=kind_of(asked), parent=parent.identity, measure=asked)

    def _synthesis(self, parent: Job, synthesis: Synthesis) -> Job:
        """The job that synthesizes images from the parent's model. Raises InputError."""
        try:
            check_parent(parent.training, synthesis)
        except InputError as error:
            place = f"{self.place}: zero_shot: {error.place}"
            raise InputError(error.problem, place=place, allowed=error.allowed) from None
        return Job(training=parent.training, kind=kind_of(synthesis), parent=parent.identity, measure=synthesis)

    def flatness_measures(self) -> list[Flatness]:
        """Those of the declared measures that are searches for flatness. Raises InputError."""
        return [one for one in self.declared_measures() if isinstance(one, Search)]

    def declared_measures(self) -> list[Measure]:
        """Every point of the measures' grids, as declared. Raises InputError."""
        self._check_kept("measures", self.measures)
        found = []
        for place, _, given in self._entries("measures", self.measures):
            measure = measure_from(given, place=place)
            _check_names(given, {"measure", *names_of(type(measure))}, measure.name, place)
            found.append(measure)
        return found

    def declared_syntheses(self) -> list[Synthesis]:
        """Every point of the grids of `zero_shot`, as declared. Raises InputError.

        A setting of an entry that some of its images don't use makes no second job of those.
        """
        self._check_kept("zero_shot", self.zero_shot)
        found: dict[Synthesis, None] = {}
        for place, entry, given in self._entries("zero_shot", self.zero_shot):
            synthesis = synthesis_from(given, place=place)
            known = {"images"}.union(*(synthesis_settings(one) for one in entry.get("images", ())))
            _check_names(given, known, synthesis.name, place)
            found[synthesis] = None
        return list(found)

    def _check_kept(self, what: str, entries: Sequence[Entry]) -> None:
        if entries and self.keep == "none":
            takes = "measures take" if what == "measures" else f"{what} takes"
            raise InputError(
                f"{takes} the trained models, and these are not kept",
                place=f"{self.place}: keep",
                allowed=f"allowed with {what}: all, children",
            )

    def _entries(
        self, what: str, entries: Sequence[Entry]
    ) -> Iterator[tuple[str, Mapping[str, tuple[Setting, ...]], dict[str, Setting]]]:
        """Every point of the entries' grids, with its entry, and the place of that for messages."""
        for number, entry in enumerate(entries, 1):
            names = [name for name, _ in entry]
            for values in itertools.product(*(values for _, values in entry)):
                yield f"{self.place}: {what} {number}", dict(entry), dict(zip(names, values, strict=True))

    def unused(self) -> list[str]:
        """The settings that are given but that no job uses, such as the `momentum` of a sweep without SGD."""
        given = (*dict(self.fixed), *(axis.name for axis in self.axes))
        return [name for name in given if name not in self._expansion.used]

    def _points(self) -> Iterator[dict[str, Any]]:
        """The grid's points. An axis that depends on another comes right after that one."""
        free = [axis for axis in self.axes if axis.by is None]
        placed = {axis.name for axis in free}
        order = [axis for axis in self.axes if axis.by is not None and axis.by not in placed]
        for axis in free:
            order += [axis, *(other for other in self.axes if other.by == axis.name)]
        return self._spread(dict(self.fixed), order)

    def _spread(self, point: dict[str, Any], axes: Sequence[Axis]) -> Iterator[dict[str, Any]]:
        if not axes:
            yield with_code(point, dict(self.user_code)) if self.user_code else point
            return
        for value in axes[0].at(point, self.place):
            yield from self._spread({**point, axes[0].name: value}, axes[1:])

    def to_json(self) -> str:
        """Canonical JSON of the resolved specification, from which `from_json` makes an equal one."""
        return json.dumps(self._content(), sort_keys=True, separators=(",", ":"), allow_nan=False)

    def _content(self) -> dict[str, Any]:
        later: dict[str, Any] = {"measures": self.measures} if self.measures else {}
        if self.zero_shot:
            later["zero_shot"] = self.zero_shot
        if self.declarations:
            later["declarations"] = {name: json.loads(text) for name, text in self.declarations}
        if self.tuning:
            later["tuning"] = self.tuning.content()
        if self.user_code:
            later["user_code"] = dict(self.user_code)
        return later | {
            "name": self.name,
            "title": self.title,
            "fixed": dict(self.fixed),
            "axes": [_axis_content(axis) for axis in self.axes],
            "tables": self.tables,
            "keep": self.keep,
            "compare_with": self.compare_with,
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
            declarations=tuple(
                (name, json.dumps(own, sort_keys=True)) for name, own in content.get("declarations", {}).items()
            ),
            keep=content["keep"],
            measures=_entries_from(content.get("measures", ())),
            zero_shot=_entries_from(content.get("zero_shot", ())),
            compare_with=content["compare_with"],
            tuning=Tuning.from_content(content["tuning"]) if "tuning" in content else None,
            user_code=tuple(sorted(content.get("user_code", {}).items())),
            place=place,
        )


@dataclass(frozen=True, kw_only=True)
class Expansion:
    """What a grid spans: its jobs in order, and the settings that any of them uses."""

    jobs: tuple[Job, ...]
    used: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class _Span:
    """A specification, equal to every one that spans the same jobs. As JSON, where 1, 1.0 and true differ."""

    text: str
    spec: Spec = field(compare=False)


@lru_cache(maxsize=4)  # a command looks at one sweep, or at one and what it was before
def _expanded(span: _Span) -> Expansion:
    return span.spec._expand()


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


def _entries_from(content: Sequence[Any]) -> tuple[Entry, ...]:
    return tuple(
        tuple((name, tuple(_frozen(value) for value in values)) for name, values in entry) for entry in content
    )


def _check_names(given: Mapping[str, Setting], allowed: set[str], what: str, place: str) -> None:
    if unknown := sorted(given.keys() - allowed):
        raise InputError(
            f"{unknown[0]!r} is not a setting of {what}", place=place, allowed=nearest(unknown[0], allowed)
        )


def _frozen(value: Scalar | Sequence[int]) -> Setting:
    return tuple(value) if isinstance(value, list) else value  # type: ignore[return-value]


def select(jobs: Sequence[Job], *, where: str | None = None, limit: int | None = None) -> list[Job]:
    """The jobs that `--where` admits, the first `limit` of them, and their ancestors. Raises InputError if none."""
    chosen = matching(jobs, where)
    if jobs and not chosen:
        raise InputError(f"none of the {len(jobs)} jobs matches", place=f"--where {shortened(where or '')!r}")
    needed = with_all_above([job.identity for job in chosen[:limit]], {job.identity: job.parent for job in jobs})
    return [job for job in jobs if job.identity in needed]


def matching(jobs: Sequence[Job], where: str | None) -> list[Job]:
    """The jobs that `--where` admits, in their order; all of them without one. Raises InputError if it is malformed."""
    if where is None:
        return list(jobs)
    condition = parse_where(where, {name: value for job in jobs for name, value in job.settings().items()})
    return [job for job in jobs if condition(job.settings())]
