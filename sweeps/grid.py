"""The jobs that a grid spans: few components in many combinations, of which a job is built when it is asked for."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, overload

from qsweep.sweeps.job import Job, encoded, identity_of
from qsweep.sweeps.kinds import TRAIN, Kind, kind_of
from qsweep.sweeps.settings import Setting
from qsweep.sweeps.training import CHOSEN, SET, Components, Training, common_of, components_of, settings_of

UNCHECKED = ("quantizer",)
"""Parts of which `Training.check` looks at nothing."""


class Combinations:
    """The components of some of the parts, each combination of a grid once, by its place."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.components: list[Mapping[str, Any]] = []
        self.settings: list[Mapping[str, Setting]] = []
        self.encoded: list[Mapping[str, str]] = []
        self.common: list[int] = []
        """For each combination a number: the same for those that members of a cohort may have."""
        self._places: dict[Hashable, int] = {}
        self._commons: dict[Components, int] = {}

    def place(self, key: Hashable, point: Callable[[], Mapping[str, Any]], place: str, used: set[str]) -> int:
        """The place of what the settings of a point describe; `key` is equal where all of them are. Adds to `used` the
        settings that are read. Raises InputError."""
        found = self._places.get(key)
        if found is None:
            given = point()
            built = components_of(given, place)
            components = tuple(built[name] for name in self.names)
            used |= Training.uses(given)
            common = common_of(self.names, components)
            self.components.append(dict(zip(self.names, components, strict=True)))
            self.settings.append(settings_of(self.names, components))
            self.encoded.append(encoded(self.names, components))
            self.common.append(self._commons.setdefault(common, len(self._commons)))
            found = self._places[key] = len(self._places)
        return found


class Grid:
    """The trainings of a grid in the order of its points, then what stands on them; each job once.

    A training is a pair of combinations, of the parts CHOSEN and of the others; a child the place of the job that it
    stands on and the place of what is `asked` of it.
    """

    def __init__(self, place: str) -> None:
        self.used: set[str] = set()
        """The settings that any job uses."""
        self.identities: list[str] = []
        self.combinations = Combinations(CHOSEN), Combinations(SET)
        self.trainings = array("q"), array("q")
        self.children = array("q"), array("q")
        self.asked: list[Any] = []
        self.calls: list[Job] = []
        self._place = place
        self._known: dict[str, int] = {}
        self._checked: set[tuple[int, ...]] = set()
        self._asked: dict[Any, int] = {}
        self._keys: dict[tuple[int, int, int, bool], str] = {}

    def add(self, keys: tuple[Hashable, Hashable], point: Callable[[], Mapping[str, Any]]) -> None:
        """Adds the training of a point; see `Combinations.place` for its `keys`. Raises InputError."""
        chosen, others = self.combinations
        first = chosen.place(keys[0], point, self._place, self.used)
        second = others.place(keys[1], point, self._place, self.used)
        components = chosen.components[first]
        shape = (*(id(one) for name, one in components.items() if name not in UNCHECKED), second)
        if shape not in self._checked:
            self._training(first, second).check(self._place)
            self._checked.add(shape)
        if self._is_new(identity_of(TRAIN, None, None, chosen.encoded[first], others.encoded[second])):
            self.trainings[0].append(first)
            self.trainings[1].append(second)

    def add_child(self, parent: int, measure: Any) -> int:
        """Adds the job that is asked this of the job at a place, all trainings being there; its own place."""
        texts = (part.encoded[one] for part, one in zip(self.combinations, self._pair(parent), strict=True))
        identity = identity_of(kind_of(measure), self.identities[parent], measure, *texts)
        if self._is_new(identity):
            place = self._asked.setdefault(measure, len(self.asked))
            if place == len(self.asked):
                self.asked.append(measure)
            self.children[0].append(parent)
            self.children[1].append(place)
        return self._known[identity]

    def add_call(self, job: Job) -> None:
        """Adds a job that calls the user's code: it has no components."""
        if self._is_new(job.identity):
            self.calls.append(job)

    def job(self, place: int) -> Job:
        """The job at a place."""
        if self.calls:
            return self.calls[place]
        above, pair = self._chain(place), self._pair(place)
        measure = above.pop() if above else None
        job = Job(
            training=self._training(*pair),
            kind=TRAIN if measure is None else kind_of(measure),
            parent=None if measure is None else self.identities[self._parent(place)],
            measure=measure,
            above=tuple(above),
        )
        asked = -1 if measure is None else self._asked[measure]
        chosen, others = self.combinations
        key = chosen.common[pair[0]], others.common[pair[1]], asked, job.of_quantized
        vars(job)["identity"] = self.identities[place]
        if key not in self._keys:
            self._keys[key] = job.cohort_key
        vars(job)["cohort_key"] = self._keys[key]
        return job

    def kind(self, place: int) -> Kind:
        """That of the job at a place."""
        if self.calls:
            return self.calls[place].kind
        first = len(self.trainings[0])
        return TRAIN if place < first else kind_of(self.asked[self.children[1][place - first]])

    def settings(self, place: int) -> dict[str, Setting]:
        """Those of the job at a place."""
        if self.calls or place >= len(self.trainings[0]):
            return self.job(place).settings()
        first, second = self.trainings[0][place], self.trainings[1][place]
        return {**self.combinations[0].settings[first], **self.combinations[1].settings[second]}

    def _parent(self, place: int) -> int:
        """The place of the job that a child stands on."""
        return self.children[0][place - len(self.trainings[0])]

    def _pair(self, place: int) -> tuple[int, int]:
        """The two combinations of the training that a job is, or stands on."""
        while place >= len(self.trainings[0]):
            place = self._parent(place)
        return self.trainings[0][place], self.trainings[1][place]

    def _chain(self, place: int) -> list[Any]:
        """What is asked of the training that a job stands on, and so on down to what is asked in the job itself."""
        found: list[Any] = []
        while place >= len(self.trainings[0]):
            found.insert(0, self.asked[self.children[1][place - len(self.trainings[0])]])
            place = self._parent(place)
        return found

    def _training(self, first: int, second: int) -> Training:
        return Training(**self.combinations[0].components[first], **self.combinations[1].components[second])

    def _is_new(self, identity: str) -> bool:
        if identity in self._known:
            return False
        self._known[identity] = len(self.identities)
        self.identities.append(identity)
        return True


class Jobs(Sequence[Job]):
    """Jobs of a grid, in its order. Each is built anew whenever it is asked for, so that a million take little room."""

    def __init__(self, grid: Grid, places: Sequence[int]) -> None:
        self._grid = grid
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, at: int) -> Job: ...
    @overload
    def __getitem__(self, at: slice) -> Jobs: ...
    def __getitem__(self, at: int | slice) -> Job | Jobs:
        if isinstance(at, slice):
            return Jobs(self._grid, self._places[at])
        return self._grid.job(self._places[at])

    def __iter__(self) -> Iterator[Job]:
        return map(self._grid.job, self._places)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self.identities == identities_of(other)

    def __hash__(self) -> int:
        return hash(tuple(self.identities))

    @cached_property
    def identities(self) -> list[str]:
        """Of each of them, in order."""
        return [self._grid.identities[place] for place in self._places]

    def settings(self, at: int) -> dict[str, Setting]:
        """Those of one of them."""
        return self._grid.settings(self._places[at])

    def trainings(self) -> Jobs:
        """Those that stand on no other job."""
        first = len(self._grid.calls or self._grid.trainings[0])
        return self.only(at for at, place in enumerate(self._places) if place < first)

    def of(self, kind: Kind) -> Jobs:
        """Those of a kind."""
        return self.only(at for at, place in enumerate(self._places) if self._grid.kind(place) is kind)

    def only(self, chosen: Iterable[int]) -> Jobs:
        """Those at these places here, in this order."""
        return Jobs(self._grid, array("q", (self._places[at] for at in chosen)))


class Settings(Mapping[str, Mapping[str, Setting]]):
    """The settings of jobs by their identities, in their order; of those of a grid made anew whenever they are asked
    for."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = jobs
        self._places = {identity: place for place, identity in enumerate(identities_of(jobs))}

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __getitem__(self, identity: str) -> Mapping[str, Setting]:
        place = self._places[identity]
        return self._jobs.settings(place) if isinstance(self._jobs, Jobs) else self._jobs[place].settings()


def identities_of(jobs: Sequence[Job]) -> list[str]:
    """The identities of jobs, in their order."""
    return jobs.identities if isinstance(jobs, Jobs) else [job.identity for job in jobs]


def only(jobs: Sequence[Job], places: Iterable[int]) -> Sequence[Job]:
    """The jobs at these places."""
    return jobs.only(places) if isinstance(jobs, Jobs) else [jobs[place] for place in places]
