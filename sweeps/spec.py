"""A sweep as asked: fixed settings, axes, and the ordered jobs that they span."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from operator import itemgetter
from typing import Any, TypeAlias

from qsweep.sweeps.calls import Call, is_call
from qsweep.sweeps.chains import with_all_above
from qsweep.sweeps.components import PARTS
from qsweep.sweeps.errors import InputError, nearest
from qsweep.sweeps.grid import Grid, Jobs, identities_of, only
from qsweep.sweeps.job import Job
from qsweep.sweeps.kinds import QUANTIZATION, TRAIN, Kind, kind_of
from qsweep.sweeps.measures import Flatness, Measure, Search, asked_of, measure_from
from qsweep.sweeps.modules import with_arguments
from qsweep.sweeps.parts import Part
from qsweep.sweeps.settings import Scalar, Setting, names_of
from qsweep.sweeps.text import shortened
from qsweep.sweeps.training import SET, Training
from qsweep.sweeps.tuning import Tuning
from qsweep.sweeps.user_code import Signature, UserCode, with_code
from qsweep.sweeps.where import parse_where
from qsweep.sweeps.zero_shot import (
    Quantization,
    Synthesis,
    check_judged,
    check_parent,
    quantization_from,
    settings_of_entry,
    synthesis_from,
)

SPANNING = ("fixed", "axes", "measures", "measures_of", "zero_shot", "keep", "user_code", "arrays")
"""The parts of a specification that decide which jobs it has. (`keep` allows what takes models, or does not.)"""
Entry: TypeAlias = tuple[tuple[str, tuple[Setting, ...]], ...]
"""One entry of `[[measures]]` or `[[zero_shot]]`: its settings with their values, a grid of its own."""
Point: TypeAlias = tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis of a grid: its values, or its values for each value of the setting `by`."""

    name: str
    values: tuple[Setting, ...] = ()
    by: str | None = None
    branches: tuple[tuple[str, tuple[Setting, ...]], ...] = ()

    def branch(self, number: int) -> tuple[Setting, ...]:
        """The values of this axis in a branch."""
        return self.values if self.by is None else self.branches[number][1]

    def at(self, point: Mapping[str, Any], place: str) -> tuple[int, tuple[Setting, ...]]:
        """The branch where the settings of `point` are given, by its number, and its values."""
        if self.by is None:
            return 0, self.values
        value = point.get(self.by)
        for number, (key, values) in enumerate(self.branches):
            if key == str(value):
                return number, values
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
    """Measures of each model of the kinds of jobs `measures_of`."""
    measures_of: tuple[str, ...] = (TRAIN.plural,)
    """Whose models are measured: those of `trainings`, or of `quantizations` on images, or of both."""
    zero_shot: tuple[Entry, ...] = ()
    """What is made of each trained model without data."""
    compare_with: str | None = None
    """The paper's data set to show beside this sweep's, if the paper does not cover this one."""
    memory: int = 0
    """Bytes that a run of a user's function or command may take; 0 is what is free on its machine."""
    tuning: Tuning | None = None
    """How its points are tried, if it is a tuning run."""
    user_code: tuple[tuple[str, str], ...] = ()
    """The hash of the user's code behind each `file:PATH:NAME` among its values."""
    signatures: tuple[tuple[str, str], ...] = ()
    """The settings of the modules among that code, by the same names: `Signature.content` as JSON."""
    arrays: tuple[tuple[str, str], ...] = ()
    """What arrays of users hold, by their names among the values of `data`: the settings of `sweeps.datasets.Arrays` as
    JSON."""
    place: str = ""
    """Where it was read, for messages."""
    folder: str = field(default="", compare=False, repr=False)
    """The folder of its file, from which arrays of users are named; empty if it was not read from one."""
    sources: tuple[UserCode, ...] = field(default=(), compare=False, repr=False)
    """That code, where the sweep was read from its file: a launch keeps a copy."""

    def jobs(self) -> Jobs:
        """Every job of the sweep, in order, each once: the trainings, then what stands on them. Raises InputError."""
        return Jobs(self._grid, range(len(self._grid.identities)))

    @cached_property
    def _grid(self) -> Grid:
        """The grid, expanded once in a process, however often the sweep is read from a file or a registry."""
        content = self._content()
        return _expanded(_Span(text=json.dumps([content.get(name) for name in SPANNING], sort_keys=True), spec=self))

    def _expand(self) -> Grid:
        given = (*dict(self.fixed), *(axis.name for axis in self.axes))
        if is_call(given):
            return self._expand_calls()
        known = Training.known() | self.argument_names
        if unknown := sorted(set(given) - known):
            allowed = nearest(unknown[0], known)
            raise InputError(f"{unknown[0]!r} is not a setting", place=self.place, allowed=allowed)
        grid, axes = Grid(self.place), self._ordered()
        keys = self._keys(axes)
        for point in self._points(axes):
            grid.add((keys[0](point), keys[1](point)), partial(self._settings, axes, point))
        if idle := [axis.name for axis in self.axes if axis.name not in grid.used]:
            raise InputError("no job uses this setting", place=f"{self.place}: axes.{idle[0]}")
        trainings = range(len(grid.identities))
        zero_shot = self.declared_zero_shot() if trainings else []
        measures = self.declared_measures() if trainings else []
        made: dict[tuple[int, Synthesis], int] = {}
        for place in trainings if zero_shot else ():
            parent = grid.job(place)
            for synthesis, _ in zero_shot:
                made[place, synthesis] = grid.add_child(place, self._synthesized(parent, synthesis))
        quantized: dict[int, None] = {}
        for place in trainings if zero_shot else ():
            parent = grid.job(place)
            for synthesis, quantization in zero_shot:
                if quantization is not None:
                    asked = self._quantized(parent, quantization)
                    quantized[grid.add_child(made[place, synthesis], asked)] = None
        self._check_measured(measured=bool(measures), quantized=bool(quantized) or not trainings)
        measured = [*(trainings if self.measures_models_of(TRAIN) else ()),
                    *(quantized if self.measures_models_of(QUANTIZATION) else ())]  # fmt: skip
        for place in measured if measures else ():
            parent = grid.job(place)
            for measure in measures:
                grid.add_child(place, self._asked(parent, measure))
        return grid

    def measures_models_of(self, kind: Kind) -> bool:
        """Whether its measures are of the models that jobs of this kind leave."""
        return kind.plural in self.measures_of

    def _check_measured(self, *, measured: bool, quantized: bool) -> None:
        place = f"{self.place}: measures_of"
        if self.measures_of != (TRAIN.plural,) and not measured:
            raise InputError("there are no measures", place=place, allowed="allowed with [[measures]]")
        if self.measures_models_of(QUANTIZATION) and not quantized:
            raise InputError(
                "no model is quantized on images", place=place, allowed="allowed with a rounding in [[zero_shot]]"
            )

    def _expand_calls(self) -> Grid:
        if self.measures:
            place = f"{self.place}: measures"
            raise InputError("measures are of trained models, and a function leaves none", place=place)
        self._check_measured(measured=False, quantized=False)
        grid, axes = Grid(self.place), self._ordered()
        for point in self._points(axes):
            grid.add_call(Job.of_call(Call.from_settings(self._settings(axes, point), place=self.place)))
        grid.used.update((*dict(self.fixed), *(one.name for one in self.axes)))
        return grid

    @property
    def calls(self) -> bool:
        """Whether its jobs call the user's code, and train nothing that qsweep knows of."""
        return is_call((*dict(self.fixed), *(axis.name for axis in self.axes)))

    def trainings(self) -> Jobs:
        """Those of its jobs that train a model: every other stands on one of them. Raises InputError."""
        return self.jobs().trainings()

    def measured(self, kind: Kind) -> Jobs:
        """Those of its jobs of a kind whose models it measures. Raises InputError."""
        jobs = self.jobs()
        if not self.measures or not self.measures_models_of(kind):
            return jobs[:0]
        return jobs.trainings() if kind is TRAIN else jobs.of(kind)

    def child(self, parent: Job, measure: Measure) -> Job:
        """The job that takes this measure of the parent's model. Raises InputError."""
        asked = self._asked(parent, measure)
        above = parent.above if parent.measure is None else (*parent.above, parent.measure)
        return Job(training=parent.training, kind=kind_of(asked), parent=parent.identity, measure=asked, above=above)

    def _asked(self, parent: Job, measure: Measure) -> Measure:
        """What is measured of the parent's model. Raises InputError."""
        try:
            return asked_of(measure, parent.training, quantized=parent.kind is QUANTIZATION)
        except InputError as error:
            place = f"{self.place}: measures: {error.place}"
            raise InputError(error.problem, place=place, allowed=error.allowed) from None

    def _synthesized(self, parent: Job, synthesis: Synthesis) -> Synthesis:
        """How images are synthesized from the parent's model. Raises InputError."""
        self._check_zero_shot(lambda: check_parent(parent.training, synthesis))
        return synthesis

    def _quantized(self, parent: Job, quantization: Quantization) -> Quantization:
        """How the parent's model is quantized on images. Raises InputError."""
        self._check_zero_shot(lambda: check_judged(parent.training, quantization))
        return quantization

    def _check_zero_shot(self, check: Callable[[], None]) -> None:
        try:
            check()
        except InputError as error:
            place = f"{self.place}: zero_shot: {error.place}"
            raise InputError(error.problem, place=place, allowed=error.allowed) from None

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

    def declared_zero_shot(self) -> list[tuple[Synthesis, Quantization | None]]:
        """Every point of the grids of `zero_shot`, as declared: images, and how a model is quantized on them, if it is.
        Raises InputError.

        A setting of an entry that some of its images don't use makes no second job of those.
        """
        self._check_kept("zero_shot", self.zero_shot)
        found: dict[tuple[Synthesis, Quantization | None], None] = {}
        for place, entry, given in self._entries("zero_shot", self.zero_shot):
            point = synthesis_from(given, place=place), quantization_from(given, place=place)
            known = settings_of_entry(entry.get("images", ()), entry.get("rounding", ()))
            _check_names(given, set(known), point[0].name, place)
            found[point] = None
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
        return [name for name in given if name not in self._grid.used]

    def free(self) -> set[str]:
        """The settings in which its jobs may differ: those with several values, those of measures, which leave out what
        makes no difference, and those of components that are settled beside others. Expands nothing."""
        given = (*dict(self.fixed), *(axis.name for axis in self.axes))
        names = {axis.name for axis in self.axes}
        if self.signatures or self.arrays:
            names |= PARTS["model"].known() | PARTS["data"].known() | self.argument_names
        for part in PARTS.values():
            names |= part.known() if part.settled is not Part.settled and part.name in given else frozenset()
        measures = self.declared_measures()
        return names.union(*(("measure", *names_of(type(one))) for one in measures))

    def _ordered(self) -> list[Axis]:
        """The axes, the slowest first: one that depends on another comes right after that one."""
        free = [axis for axis in self.axes if axis.by is None]
        placed = {axis.name for axis in free}
        order = [axis for axis in self.axes if axis.by is not None and axis.by not in placed]
        for axis in free:
            order += [axis, *(other for other in self.axes if other.by == axis.name)]
        return order

    def _points(self, axes: Sequence[Axis], point: Point = ()) -> Iterator[Point]:
        """The grid's points: on each of these axes the branch and the place there of a value."""
        if len(point) == len(axes):
            yield point
            return
        axis = axes[len(point)]
        branch, values = axis.at(self._given(axes, point) if axis.by is not None else {}, self.place)
        for place in range(len(values)):
            yield from self._points(axes, (*point, (branch, place)))

    def _keys(self, axes: Sequence[Axis]) -> tuple[Callable[[Point], Hashable], Callable[[Point], Hashable]]:
        """What take from a point that which the components of the parts CHOSEN and SET depend on."""
        of_set = [axis.name in frozenset().union(*(PARTS[name].known() for name in SET)) for axis in axes]
        given = (*dict(self.fixed), *(axis.name for axis in self.axes))
        if any(part.settled is not Part.settled and part.name in given for part in PARTS.values()):
            return lambda point: point, _taken(of_set)  # one that is settled beside all others
        return _taken([not one for one in of_set]), _taken(of_set)

    def _given(self, axes: Sequence[Axis], point: Point) -> dict[str, Any]:
        """The settings that the sweep gives at a point, or at its beginning."""
        placed = zip(axes, point, strict=False)
        return {**dict(self.fixed), **{axis.name: axis.branch(branch)[place] for axis, (branch, place) in placed}}

    def _settings(self, axes: Sequence[Axis], point: Point) -> dict[str, Any]:
        """The settings of a point, with what is known of the user's code and arrays among them. Raises InputError."""
        given = self._given(axes, point)
        if self.user_code:
            given = with_code(given, dict(self.user_code))
        if self.arrays:
            described = json.loads(self._arrays.get(str(given.get("data")), "{}"))
            given |= {name: _frozen(value) for name, value in described.items()}
        return with_arguments(given, self._signatures, self.place) if self.signatures else given

    @cached_property
    def _arrays(self) -> dict[str, str]:
        return dict(self.arrays)

    @property
    def argument_names(self) -> frozenset[str]:
        """The names of the arguments of modules, which are settings of this sweep."""
        return frozenset[str]().union(*(one.names for one in self._signatures.values()))

    @cached_property
    def _signatures(self) -> dict[str, Signature]:
        return {name: Signature.from_content(json.loads(text)) for name, text in self.signatures}

    def to_json(self) -> str:
        """Canonical JSON of the resolved specification, from which `from_json` makes an equal one."""
        return json.dumps(self._content(), sort_keys=True, separators=(",", ":"), allow_nan=False)

    def _content(self) -> dict[str, Any]:
        later: dict[str, Any] = {"measures": self.measures} if self.measures else {}
        if self.zero_shot:
            later["zero_shot"] = self.zero_shot
        if self.measures_of != (TRAIN.plural,):
            later["measures_of"] = self.measures_of
        if self.declarations:
            later["declarations"] = {name: json.loads(text) for name, text in self.declarations}
        if self.memory:
            later["memory"] = self.memory
        if self.tuning:
            later["tuning"] = self.tuning.content()
        if self.user_code:
            later["user_code"] = dict(self.user_code)
        if self.arrays:
            later["arrays"] = {name: json.loads(text) for name, text in self.arrays}
        if self.signatures:
            later["signatures"] = {name: json.loads(text) for name, text in self.signatures}
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
            measures_of=tuple(content.get("measures_of", (TRAIN.plural,))),
            compare_with=content["compare_with"],
            memory=content.get("memory", 0),
            tuning=Tuning.from_content(content["tuning"]) if "tuning" in content else None,
            user_code=tuple(sorted(content.get("user_code", {}).items())),
            arrays=tuple(
                (name, json.dumps(one, sort_keys=True)) for name, one in sorted(content.get("arrays", {}).items())
            ),
            signatures=tuple(
                (name, json.dumps(one, sort_keys=True)) for name, one in sorted(content.get("signatures", {}).items())
            ),
            place=place,
        )


@dataclass(frozen=True, kw_only=True)
class _Span:
    """A specification, equal to every one that spans the same jobs. As JSON, where 1, 1.0 and true differ."""

    text: str
    spec: Spec = field(compare=False)


@lru_cache(maxsize=4)  # a command looks at one sweep, or at one and what it was before
def _expanded(span: _Span) -> Grid:
    return span.spec._expand()


def _taken(wanted: Sequence[bool]) -> Callable[[Point], Hashable]:
    """What takes the wanted places from a point."""
    places = [place for place, one in enumerate(wanted) if one]
    return itemgetter(*places) if places else lambda point: ()


def variant(jobs: Sequence[Job]) -> str:
    """8 hex digits that name a variant of a sweep: the hash of its jobs, in their order."""
    return hashlib.sha256(" ".join(identities_of(jobs)).encode()).hexdigest()[:8]


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


def select(jobs: Sequence[Job], *, where: str | None = None, limit: int | None = None) -> Sequence[Job]:
    """The jobs that `--where` admits, the first `limit` of them, and their ancestors. Raises InputError if none."""
    if where is None and limit is None:
        return jobs
    chosen = [job.identity for job in matching(jobs, where)]
    if jobs and not chosen:
        raise InputError(f"none of the {len(jobs)} jobs matches", place=f"--where {shortened(where or '')!r}")
    needed = with_all_above(chosen[:limit], {job.identity: job.parent for job in jobs})
    return only(jobs, (place for place, identity in enumerate(identities_of(jobs)) if identity in needed))


def matching(jobs: Iterable[Job], where: str | None) -> Iterable[Job]:
    """The jobs that `--where` admits, in their order; all of them without one. `jobs` are gone through twice. Raises
    InputError if it is malformed."""
    if where is None:
        return jobs
    condition = parse_where(where, {name: value for job in jobs for name, value in job.settings().items()})
    return (job for job in jobs if condition(job.settings()))
