"""Models that are a module of the user, or of a library that names them: any `torch.nn.Module`.

What they are made of only a process with torch knows (`workers.models.module`). Here they are a name, the hash of their
code, and the keyword arguments that they are made with.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from qsweep.sweeps.datasets import DataSet
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.layers import ConvLayer
from qsweep.sweeps.settings import Setting
from qsweep.sweeps.user_code import DIGEST, Reference, Signature, is_reference, reference_of

LIBRARIES = ("torchvision", "timm")
"""Libraries whose networks are named as `torchvision:resnet18`."""
LIBRARY = re.compile(r"(?P<library>[a-z]+):(?P<name>[A-Za-z0-9_.]+)")
CODE = "model_code"
ARGUMENTS = "model_arguments"
"""The setting that holds the keyword arguments of a module as JSON: a job says which of its settings they are."""
ALLOWED = "file:PATH.py:NAME, torchvision:NAME, timm:NAME"


@dataclass(frozen=True, kw_only=True)
class Module:
    """A module that a function of the user makes, or a library: `build(data, **arguments)`.

    `source` is `file:PATH:NAME`, or `torchvision:NAME`, or `timm:NAME`; `code` the hash of the user's code, empty of a
    library. Where a file lies, and what it is called, is no part of an identity.
    """

    name: ClassVar[str] = "module"
    semantics: ClassVar[int] = 1
    quantizes_activations: ClassVar[bool] = True

    source: str
    code: str = ""
    arguments: tuple[tuple[str, Setting], ...] = ()
    """In the order of their names."""

    @classmethod
    def from_settings(cls, given: Mapping[str, Any], place: str | None) -> Module:
        """The module that flat settings name. Raises InputError."""
        where = f"{place}: " if place else ""
        source = str(given["model"])
        if not is_reference(source):
            _library_of(source, f"{where}model")
            return cls(source=source)
        reference_of(source, place=f"{where}model")
        code, text = given.get(CODE), given.get(ARGUMENTS)
        if not isinstance(code, str) or not DIGEST.fullmatch(code) or not isinstance(text, str):
            raise InputError(
                "a module of the user is named in a sweep file",
                place=f"{where}model",
                allowed="read_sweep of that file",
            )
        return cls(source=source, code=code, arguments=arguments_of(text, place=f"{where}{ARGUMENTS}"))

    @property
    def reference(self) -> Reference | None:
        """The user's function; None of a library's."""
        return reference_of(self.source, place="model") if self.code else None

    @cached_property
    def content(self) -> dict[str, Any]:
        """What counts of it for an identity, beside its name in the table of components."""
        if self.reference is None:
            return {"source": self.source}
        return {"code": self.code, "function": self.reference.name, "arguments": dict(self.arguments)}

    @property
    def title(self) -> str:
        if self.reference is None:
            return self.source.partition(":")[2]
        stem = self.reference.path.rpartition("/")[2].removesuffix(".py")
        return f"{stem}.{self.reference.name}"

    @property
    def family(self) -> str:
        return self.title

    @property
    def shape(self) -> str:
        """Its arguments: what sets it apart from others of the same function."""
        return ", ".join(f"{name} {_shown(value)}" for name, value in self.arguments)

    @cached_property
    def label(self) -> str:
        digest = hashlib.sha256(json.dumps(self.content, sort_keys=True).encode()).hexdigest()[:8]
        return f"{re.sub('[^A-Za-z0-9._-]', '-', self.title)}-{digest}"

    def layers(self, data: DataSet) -> tuple[ConvLayer, ...]:
        """None that are known without torch."""
        return ()

    def settings(self) -> dict[str, Setting]:
        """Its settings by their flat names: those that name it, and its arguments."""
        if not self.code:
            return {}
        return {CODE: self.code, ARGUMENTS: json.dumps(dict(self.arguments)), **dict(self.arguments)}


def with_arguments(point: Mapping[str, Any], signatures: Mapping[str, Signature], place: str) -> dict[str, Any]:
    """The settings of a grid's point, and beside a module's the arguments that it is made with. Raises InputError."""
    signature = signatures.get(str(point.get("model")))
    if signature is None:
        return dict(point)
    given = {name: point[name] for name in signature.names if name in point}
    arguments = signature.settings(given, place=place)
    return {**point, **arguments, ARGUMENTS: json.dumps(arguments, sort_keys=True)}


def check_signature(signature: Signature, taken: Collection[str], *, place: str) -> None:
    """Raise InputError for a function that is no module's, or one of whose arguments is a setting `taken` elsewhere."""
    if len(signature.positional) != 1:
        raise InputError(
            f"it takes {len(signature.positional)} arguments that are no settings, not 1",
            place=place,
            allowed="def build(data, *, width: int = 16): the data, and after the star the settings of the sweep",
        )
    if signature.open:
        raise InputError("it takes any settings", place=place, allowed="write out its settings, each with a name")
    if clash := sorted(set(signature.names).intersection(taken)):
        raise InputError(
            f"{clash[0]!r} is another setting of a sweep already", place=place, allowed="another name of the argument"
        )


def is_module(value: object) -> bool:
    """Whether the setting `model` names a module of the user, or of a library."""
    return isinstance(value, str) and (is_reference(value) or (value.partition(":")[0] in LIBRARIES and ":" in value))


def arguments_of(text: str, *, place: str) -> tuple[tuple[str, Setting], ...]:
    """The arguments that a job's setting holds. Raises InputError."""
    try:
        found = json.loads(text)
        return tuple(sorted((str(name), _frozen(value)) for name, value in found.items()))
    except (ValueError, AttributeError, RecursionError):
        raise InputError(f"{text!r} are no arguments", place=place) from None


def _library_of(source: str, place: str) -> tuple[str, str]:
    found = LIBRARY.fullmatch(source)
    if found is None or found["library"] not in LIBRARIES:
        raise InputError(f"{source!r} is not known", place=place, allowed=f"allowed: {ALLOWED}")
    return found["library"], found["name"]


def _shown(value: Setting) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
