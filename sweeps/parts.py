"""What a row of the table of components means: a part of a training, and the components that it may be."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal, get_type_hints

from qsweep.sweeps.datasets import DATASETS, Arrays, arrays_from, data_from, data_settings, is_arrays
from qsweep.sweeps.errors import InputError, nearest
from qsweep.sweeps.modules import ALLOWED, ARGUMENTS, CODE, Module, arguments_of, is_module
from qsweep.sweeps.settings import Rule, Setting, build, canonical, names_of, rule_of, settings_of
from qsweep.sweeps.targets import PREFIX, Teacher, teacher_settings


@cache
def _types_of(settings: Any) -> dict[str, Any]:
    hints = get_type_hints(settings)
    return {name: hints[name] for name in names_of(settings)}


@dataclass(frozen=True, kw_only=True)
class Component:
    """One choice for a part: how it is set, and what computes it.

    `settings` is the frozen dataclass of its settings, None where it has none. `implementation` is the `module:name` of
    what computes it, which only agents import. `label` stands behind the precision of a model that was trained with it
    (`Int4 · SAQ`): its name, where none is given; nothing behind a part's default. `idle` names the settings that have
    no effect beside the components that were chosen for other parts: they are no part of an identity. Where the members
    of a cohort share the kind of this part, `kind` is what they share, or says it of the settings: its name, where none
    is given.
    """

    name: str
    settings: type[Any] | None = None
    implementation: str = ""
    label: str | None = None
    idle: Callable[[Mapping[str, Any]], tuple[str, ...]] | None = None
    kind: str | Callable[[Any], str] = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Its settings."""
        return names_of(self.settings) if self.settings is not None else ()

    def columns(self) -> dict[str, Any]:
        """The type of each of its settings."""
        settings: Any = self.settings  # for mypy a type is not hashable
        return {} if settings is None else _types_of(settings)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a training that has settings, and nothing to choose from.

    `name` is that of the field of `Training` and of the part's entry in an identity, unless its content stands in the
    `entry` of another. The members of a cohort have the `same`, one of the `same kind`, or `any`; even where it is the
    same they may differ in the settings `apart`. `names_rows` says that a trained model is called by this part, so that
    no row of results is averaged over it. `content_of` is what counts of it for an identity, and `settled` what a built
    component is beside those of the other parts.
    """

    name: str
    components: dict[str, Component] = field(default_factory=dict)
    entry: str = ""
    in_cohort: Literal["same", "same kind", "any"] = "same"
    apart: tuple[str, ...] = ()
    names_rows: bool = False
    content_of: Callable[[Any], Mapping[str, Any]] = canonical
    settled: Callable[[Any, Mapping[str, Any]], Any] = lambda value, others: value

    @property
    def own(self) -> tuple[str, ...]:
        """The settings that choose a component, or none."""
        return ()

    def build(self, given: Mapping[str, Any], place: str | None) -> Any:
        """What flat settings describe; None if they say that there is none. Raises InputError."""
        return build(self._only.settings or type(None), given, place=place)

    def choice(self, given: Mapping[str, Any]) -> str | None:
        """The name of the component that flat settings choose, known or not; None if there is none."""
        return self.name

    def component(self, value: Any) -> Component | None:
        """The row of a built component; None if there is none."""
        return self._only

    def used(self, choice: str | None) -> frozenset[str]:
        """The settings that are read where this component is chosen."""
        component = self.components.get(choice or "")
        return frozenset(self.own).union(component.names if component is not None else ())

    def known(self) -> frozenset[str]:
        """Every setting of every component of this part."""
        return frozenset(self.own).union(*(one.names for one in self.components.values()))

    def columns(self) -> dict[str, Any]:
        """The type of each of these settings, in the order in which a person lists them."""
        return {name: kind for one in self.components.values() for name, kind in one.columns().items()}

    def settings(self, value: Any) -> dict[str, Setting]:
        """Every setting of a component by its flat name."""
        return settings_of(value)

    def drops_out(self, value: Any) -> bool:
        """Whether a training with this component is the same job as one of a release that did not have the part."""
        return False

    def idle(self, value: Any, others: Mapping[str, Any]) -> tuple[str, ...]:
        """The settings of this component that have no effect beside the components that were chosen for other parts."""
        component = self.component(value)
        return () if component is None or component.idle is None else component.idle(others)

    def content(self, value: Any, idle: Collection[str] = ()) -> dict[str, Any] | None:
        """What counts of a component for the identity of a job, but for the settings that are `idle`."""
        return {name: one for name, one in self.content_of(value).items() if name not in idle}

    def common(self, value: Any) -> Hashable:
        """What the members of a cohort have in common of this part; None if it is nothing."""
        if self.drops_out(value):
            return None
        if self.in_cohort == "same":
            same: Hashable = replace(value, **dict.fromkeys(self.apart, 0)) if self.apart else value
            return same
        component = self.component(value)
        if self.in_cohort == "any" or component is None:
            return None
        return (component.kind(value) if callable(component.kind) else component.kind) or component.name

    def common_content(self, common: Any) -> Mapping[str, Any] | None:
        """What counts of that for the key of a cohort."""
        if common is None or self.in_cohort == "same kind":
            return common and {"name": common}
        return self.content(common, idle=self.apart)

    @property
    def _only(self) -> Component:
        return self.components[self.name]


@dataclass(frozen=True, kw_only=True)
class Choice(Part):
    """A part whose component is chosen by the setting of its name.

    A training without that setting has the component `default`. If the part was `added_later` than the first release,
    that default is no part of an identity, of a job's settings and of the results.
    """

    default: str | None = None
    added_later: bool = False

    @property
    def own(self) -> tuple[str, ...]:
        return (self.name,) if self.components else ()

    def build(self, given: Mapping[str, Any], place: str | None) -> Any:
        component = self._chosen(given, place)
        assert component.settings is not None
        return build(component.settings, given, place=place)

    def choice(self, given: Mapping[str, Any]) -> str | None:
        return str(given.get(self.name, self.default))

    def component(self, value: Any) -> Component | None:
        return self.components[value.name]

    def columns(self) -> dict[str, Any]:
        return dict.fromkeys(self.own[:1], str) | super().columns()

    def settings(self, value: Any) -> dict[str, Setting]:
        return {} if self.drops_out(value) else {self.name: value.name, **settings_of(value)}

    def drops_out(self, value: Any) -> bool:
        return self.added_later and value.name == self.default

    def content(self, value: Any, idle: Collection[str] = ()) -> dict[str, Any] | None:
        return {"name": value.name, **(super().content(value, idle) or {})}

    def _chosen(self, given: Mapping[str, Any], place: str | None) -> Component:
        name = given.get(self.name, self.default)
        if name is None and self.name not in given:
            allowed = "allowed: " + ", ".join(self._families())
            raise InputError(f"{self.name} is missing", place=place, allowed=allowed)
        if not isinstance(name, str) or name not in self._families():
            where = f"{place}: {self.name}" if place else self.name
            raise InputError(f"{name!r} is not known", place=where, allowed=self._allowed(str(name)))
        return self.components[name]

    def _families(self) -> Mapping[str, Component]:
        """The components that are chosen by their names."""
        return self.components

    def _allowed(self, name: str) -> str:
        """What to say of a name that is none."""
        return nearest(name, self._families())


@dataclass(frozen=True, kw_only=True)
class DataChoice(Choice):
    """The data: known sets without settings, and the user's own, which its settings describe."""

    def build(self, given: Mapping[str, Any], place: str | None) -> Any:
        named = given.get(self.name)
        if isinstance(named, str) and is_arrays(named):
            return arrays_from(named, given, place)
        return data_from(DATASETS[self._chosen(given, place).name], given, place)

    def choice(self, given: Mapping[str, Any]) -> str | None:
        return Arrays.name if is_arrays(given.get(self.name)) else super().choice(given)

    def settings(self, value: Any) -> dict[str, Setting]:
        return {self.name: value.source or value.name, **data_settings(value)}

    def _families(self) -> dict[str, Component]:
        return {name: one for name, one in self.components.items() if name != Arrays.name}

    def _allowed(self, name: str) -> str:
        return (
            f"{nearest(name, self._families())}, file:PATH.npz, file:PATH.parquet, file:PATH.py:NAME, torchvision:NAME"
        )


@dataclass(frozen=True, kw_only=True)
class ModelChoice(Choice):
    """The model: known families, and modules that the setting names by where they come from."""

    def build(self, given: Mapping[str, Any], place: str | None) -> Any:
        if is_module(given.get(self.name)):
            return Module.from_settings(given, place)
        return super().build(given, place)

    def choice(self, given: Mapping[str, Any]) -> str | None:
        """Of a module with the names of its arguments behind it."""
        if not is_module(given.get(self.name)):
            return super().choice(given)
        arguments = arguments_of(str(given.get(ARGUMENTS, "{}")), place=ARGUMENTS)
        return " ".join((Module.name, *(name for name, _ in arguments)))

    def used(self, choice: str | None) -> frozenset[str]:
        name, *arguments = (choice or "").split(" ")
        if name != Module.name:
            return super().used(choice)
        return frozenset((*self.own, CODE, ARGUMENTS, *arguments))

    def known(self) -> frozenset[str]:
        return super().known() | {CODE, ARGUMENTS}

    def columns(self) -> dict[str, Any]:
        return super().columns() | dict.fromkeys((CODE, ARGUMENTS), str)

    def settings(self, value: Any) -> dict[str, Setting]:
        if isinstance(value, Module):
            return {self.name: value.source, **value.settings()}
        return super().settings(value)

    def content(self, value: Any, idle: Collection[str] = ()) -> dict[str, Any] | None:
        if isinstance(value, Module):
            return {"name": value.name, **value.content}
        return super().content(value, idle)

    def _families(self) -> dict[str, Component]:
        return {name: one for name, one in self.components.items() if name != Module.name}

    def _allowed(self, name: str) -> str:
        return f"{nearest(name, self._families())}, {ALLOWED}"


@dataclass(frozen=True, kw_only=True)
class QuantizerChoice(Choice):
    """A quantizer of `what`, of which there is none (None) where the setting `width` is `full`: its bits at full
    precision."""

    what: str
    width: str
    full: int

    @property
    def own(self) -> tuple[str, ...]:
        return (self.name, self.width) if self.components else ()

    def build(self, given: Mapping[str, Any], place: str | None) -> Any:
        if self.added_later and self.name not in given and given.get(self.width, self.full) == self.full:
            return None
        component = self._chosen(given, place)
        rule = rule_of(component.settings, self.width)
        width = self._width(given, rule, place)
        if width != self.full:
            return build(component.settings or type(None), given, place=place)
        some = rule.choices[-1] if rule.choices else rule.low  # its other settings have to be right all the same
        build(component.settings or type(None), {**given, self.width: some}, place=place)
        return None

    def choice(self, given: Mapping[str, Any]) -> str | None:
        full = self.full if self.added_later else None
        return None if given.get(self.width, full) == self.full else super().choice(given)

    def component(self, value: Any) -> Component | None:
        return None if value is None else super().component(value)

    def settings(self, value: Any) -> dict[str, Setting]:
        if value is None:
            return {} if self.added_later else {self.width: self.full}
        return {self.width: getattr(value, self.width), **super().settings(value)}

    def drops_out(self, value: Any) -> bool:
        return self.added_later and value is None

    def content(self, value: Any, idle: Collection[str] = ()) -> dict[str, Any] | None:
        return None if value is None else super().content(value, idle)

    def _width(self, given: Mapping[str, Any], rule: Rule, place: str | None) -> int:
        width = given.get(self.width)
        if isinstance(width, int) and not isinstance(width, bool) and (width == self.full or rule.admits(width)):
            return width
        allowed = f"{rule.allowed()}, {self.full}"
        if self.width not in given:
            raise InputError(f"{self.width} is missing", place=place, allowed=allowed)
        where = f"{place}: {self.width}" if place else self.width
        raise InputError(f"{width!r} is not allowed", place=where, allowed=allowed)


@dataclass(frozen=True, kw_only=True)
class TargetsChoice(Choice):
    """What models learn to say. A teacher is a network of one of the families `networks`, with settings of its own."""

    networks: Mapping[str, type[Any]]

    def build(self, given: Mapping[str, Any], place: str | None) -> Any:
        built = super().build(given, place)
        if not isinstance(built, Teacher):
            return built
        where = f"{place}: teacher" if place else "teacher"
        if built.teacher not in self.networks:
            raise InputError(
                f"{built.teacher!r} is not known", place=where, allowed=nearest(built.teacher, self.networks)
            )
        own = {name.removeprefix(PREFIX): given[name] for name in self._of_network(built.teacher) if name in given}
        return replace(built, network=build(self.networks[built.teacher], own, place=where))

    def choice(self, given: Mapping[str, Any]) -> str | None:
        """Of a teacher with the family of its network behind it."""
        name = super().choice(given)
        return f"{name} {given.get(Teacher.name)}" if name == Teacher.name else name

    def used(self, choice: str | None) -> frozenset[str]:
        name, _, family = (choice or "").partition(" ")
        return super().used(name) | frozenset(self._of_network(family))

    def known(self) -> frozenset[str]:
        return super().known().union(*map(self._of_network, self.networks))

    def columns(self) -> dict[str, Any]:
        networks: Iterable[Any] = self.networks.values()  # for mypy a type is not hashable
        kinds = {PREFIX + name: kind for one in networks for name, kind in _types_of(one).items()}
        known = self.known()
        return super().columns() | {name: kind for name, kind in kinds.items() if name in known}

    def settings(self, value: Any) -> dict[str, Setting]:
        if isinstance(value, Teacher):
            return {self.name: value.name, **value.all_settings}
        return super().settings(value)

    def content(self, value: Any, idle: Collection[str] = ()) -> dict[str, Any] | None:
        if isinstance(value, Teacher):
            return {"name": value.name, **value.content}
        return super().content(value, idle)

    def _of_network(self, family: str) -> tuple[str, ...]:
        return teacher_settings(self.networks, family)
