"""The job: one unit of work, identified by the content of its resolved configuration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, TypeAlias

from qsweep.sweeps.calls import Call
from qsweep.sweeps.errors import InputError, nearest
from qsweep.sweeps.kinds import CALL, KINDS, QUANTIZATION, TRAIN, Kind, kind_named, kind_of
from qsweep.sweeps.measures import Measure, measure_content
from qsweep.sweeps.modules import Module
from qsweep.sweeps.settings import Setting, build, names_of, settings_of
from qsweep.sweeps.training import CHOSEN, SET, Components, Training, chosen_of, common_content, content_of, set_of
from qsweep.sweeps.zero_shot import Nearest, Quantization, Synthesis

OLD_CONVENTIONS: Mapping[str, Setting] = {"perturb_folded": "none"}
"""What a stored measure means by a convention that it doesn't name, because there was none when it was stored."""

Asked: TypeAlias = Measure | Synthesis | Quantization
"""What a job may be asked for beside a training."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job. Two jobs with the same configuration are the same job, in whatever sweep they stand.

    How a job is executed (backend, device, cohort, paths, retention) is no part of it.
    """

    training: Training = None  # type: ignore[assignment]
    """What is trained. Only the jobs of a kind that calls the user's code have none."""
    kind: Kind = TRAIN
    parent: str | None = None
    """Identity of the job on which this one stands; None of a training."""
    measure: Asked | None = None
    """The settings of its kind, beside those of the training; None of a training itself."""
    call: Call | None = None
    """What is called; None where something is trained."""
    above: tuple[Asked, ...] = ()
    """The settings of the jobs between the training and this one, the highest first; the parent's identity holds
    them."""

    def __post_init__(self) -> None:
        assert (self.call is None) is (self.training is not None) is not self.kind.of_user, "a training or a call"

    @classmethod
    def of_call(cls, call: Call) -> Job:
        """The job of one call."""
        return cls(kind=CALL, call=call)

    @property
    def of_quantized(self) -> bool:
        """Whether the model that it takes is that of a quantization on images, and not the training's own."""
        return any(isinstance(one, Nearest) for one in self.above)

    @cached_property
    def identity(self) -> str:
        """32 hex digits: the hash of the canonical, typed JSON of the configuration."""
        if self.call is not None:
            return _digest({"kind": self.kind.name, "parent": None, "call": self.call.content()}, 32)
        texts = encoded(CHOSEN, chosen_of(self.training)), encoded(SET, set_of(self.training))
        return identity_of(self.kind, self.parent, self.measure, *texts)

    @cached_property
    def cohort_key(self) -> str:
        """Equal for jobs that one engine may run side by side."""
        if self.call is not None:
            return self.shape
        training = self.training
        names = f"{training.data.name}/{training.model.label}"
        return _cohort_key(self.kind, names, *training.common(), self.measure, self.of_quantized)

    @cached_property
    def shape(self) -> str:
        """What the best number of slots depends on: the model and the batches, not how long or how they train."""
        if self.call is not None:
            return f"{self.kind.name}/{self.call.name}/{_digest({**self.call.content(), 'settings': None}, 16)}"
        training = self.training
        content = {key: training.canonical()[key] for key in ("data", "model")}
        content["batches"] = [training.recipe.batch_size, training.recipe.precision]
        return f"{_what(self.kind, self.measure)}/{training.data.name}/{training.model.label}/{_digest(content, 16)}"

    @property
    def cost(self) -> float:
        """Estimated arithmetic operations; only the order of jobs and the time left depend on it. Of a call nothing is
        known."""
        if self.call is not None:
            return 1.0
        return self.training.operations if self.measure is None else self.measure.operations(self.training)

    @property
    def precision(self) -> str:
        """The arithmetic that its device has to have."""
        return "fp32" if self.call is not None else self.training.recipe.precision

    def settings(self) -> dict[str, Setting]:
        """Every setting by its flat name (`bits`, `learning_rate`, …), for tables, queries and `--where`."""
        if self.call is not None:
            return self.call.settings()
        flat = self.training.settings()
        for one in self.above:
            flat |= {kind_of(one).family: one.name, **settings_of(one)}
        return (
            flat if self.measure is None else flat | {self.kind.family: self.measure.name, **settings_of(self.measure)}
        )

    def columns(self) -> dict[str, Any]:
        """Its settings as the columns of its row of results: those of the user's own as one text of JSON, as a module
        holds its arguments already."""
        if self.call is None:
            model = self.training.model
            inside = dict(model.arguments) if isinstance(model, Module) else {}
            return {name: value for name, value in self.settings().items() if name not in inside}
        own = dict(self.call.given)
        return {name: value for name, value in self.settings().items() if name not in own} | {"settings": _dumps(own)}

    def to_json(self) -> str:
        """The whole configuration, from which `from_json` makes an equal job."""
        return _dumps({"kind": self.kind.name, "parent": self.parent, "settings": self.settings()})

    @classmethod
    @lru_cache(maxsize=1024)  # a claim, its agent and a display read the same text
    def from_json(cls, text: str) -> Job:
        content: Mapping[str, Any] = json.loads(text)
        settings, kind = content["settings"], kind_named(content["kind"])
        if kind.of_user:
            return cls(kind=kind, call=Call.from_settings(_tupled(settings), place=kind.noun))
        measure = _asked(kind, {**OLD_CONVENTIONS, **settings})
        above = tuple(_asked(one, settings) for one in _between(kind) if one.family in settings)
        asked = {name for one in (measure, *above) if one is not None for name in names_of(type(one))}
        of_training = {name: one for name, one in settings.items() if name not in asked} if asked else settings
        return cls(
            training=Training.from_settings(of_training),
            kind=kind,
            parent=content["parent"],
            measure=measure,
            above=above,
        )


def _tupled(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}


def with_training(jobs: Iterable[Job]) -> list[Job]:
    """Those of the jobs that train a model, or stand on a training."""
    return [job for job in jobs if job.call is None]


def stored_settings(text: str) -> dict[str, Setting]:
    """What `settings` of the job answers that `to_json` has written, without building each job anew."""
    content = json.loads(text)
    settings, shape = content["settings"], (content["kind"], *content["settings"])
    if shape not in _ORDERS:
        built = Job.from_json(text).settings()
        _ORDERS[shape] = tuple(built) if built.keys() == settings.keys() else None
    order = _ORDERS[shape]
    if order is None:  # another version has stored it
        return Job.from_json(text).settings()
    return {name: tuple(one) if isinstance(one := settings[name], list) else one for name in order}


_ORDERS: dict[tuple[str, ...], tuple[str, ...] | None] = {}
"""By the kind of a stored job and the names of its settings the order of these; None where they are not all of them."""


def identity_of(
    kind: Kind, parent: str | None, measure: Asked | None, chosen: Mapping[str, str], others: Mapping[str, str]
) -> str:
    """The identity of a job, from the canonical JSON of its training's components (`encoded`)."""
    parts = {**chosen, **others, "kind": f'"{kind.name}"', "parent": "null" if parent is None else f'"{parent}"'}
    if measure is not None:
        parts[kind.family] = _encoded_measure(measure)
    text = ",".join(f'"{name}":{parts[name]}' for name in sorted(parts))
    return hashlib.sha256(f"{{{text}}}".encode()).hexdigest()[:32]


@lru_cache(maxsize=1024)
def encoded(names: tuple[str, ...], components: Components) -> Mapping[str, str]:
    """The canonical JSON of these components, entry by entry of an identity. The answer is kept: nobody may change
    it."""
    return {entry: _dumps(content) for entry, content in content_of(names, components).items()}


@lru_cache(maxsize=1024)
def _encoded_measure(measure: Asked) -> str:
    return _dumps(measure_content(measure))


@lru_cache(maxsize=1024)
def _cohort_key(
    kind: Kind, names: str, chosen: Components, others: Components, measure: Asked | None, of_quantized: bool
) -> str:
    """Kept, because thousands of jobs share one."""
    shared = common_content(chosen, others)
    if measure is not None:
        shared[kind.family] = measure_content(measure)
    if of_quantized:
        shared["of"] = QUANTIZATION.name
    return f"{_what(kind, measure)}/{names}/{_digest(shared, 16)}"


def _what(kind: Kind, measure: Asked | None) -> str:
    """What a job does, as keys begin with it."""
    return kind.name if measure is None else f"{kind.name}-{measure.name}"


def _between(kind: Kind) -> list[Kind]:
    """The kinds that may stand between a training and a job of this kind and have settings of another name, the highest
    first."""
    above = {name for parent in kind.parents for name in (parent, *(one.name for one in _between(KINDS[parent])))}
    return [one for one in KINDS.values() if one.name in above and one.family not in ("", kind.family)]


def _asked(kind: Kind, settings: Mapping[str, Any]) -> Any:
    """The settings of a job's kind, as they are stored; None if there are none."""
    name = settings.get(kind.family)
    if name is None:
        return None
    known = kind.classes()
    if name not in known:
        raise InputError(f"{name!r} is not known", place=kind.family, allowed=nearest(str(name), known))
    return build(known[name], settings)


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def _dumps(content: Mapping[str, Any] | str | None) -> str:
    """Canonical JSON: sorted keys, no spaces; a float always shows as one (`1.0` is not `1`)."""
    return _ENCODER.encode(content)


def _digest(content: Mapping[str, Any], digits: int) -> str:
    return hashlib.sha256(_dumps(content).encode()).hexdigest()[:digits]
