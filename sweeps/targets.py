"""What models learn to say of an image: its class, or shares of all classes that a larger network gave it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from qsweep.sweeps.settings import Rule, Setting, canonical, names_of, setting, settings_of

PREFIX = "teacher_"
"""Before the settings of a teacher's network: `teacher_depth` is its `depth`."""
OF_TRAINING = frozenset({"drop_path"})
"""Settings of a network that matter while it is trained alone."""
FOLDER = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
"""What a folder of soft labels may be called."""
FKD_FOLDER = "FKD_soft_label_500_crops_marginal_smoothing_k_5"


@dataclass(frozen=True, kw_only=True)
class Hard:
    """The label."""

    name: ClassVar[str] = "hard"
    semantics: ClassVar[int] = 1


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A trained network's own shares: softmax of its logits of the same cut, of its `teacher_top` first classes, with
    the rest spread evenly over the others.

    `teacher` is the family of that network, whose settings have the prefix `teacher_`. It is in full precision and in
    evaluation mode. `teacher_weights` name its weights as `weights` name those that a training starts from.
    """

    name: ClassVar[str] = "teacher"
    semantics: ClassVar[int] = 1

    teacher: str = setting()
    teacher_weights: str = setting()
    teacher_top: int = setting(Rule(low=1, high=65_536), default=5)
    network: Any = None
    """The settings of its network, of the family `teacher`."""

    @property
    def all_settings(self) -> dict[str, Setting]:
        """Its settings, and those of its network, by their flat names."""
        network = settings_of(self.network)
        return settings_of(self) | {PREFIX + name: network[name] for name in _names(type(self.network))}

    @property
    def content(self) -> dict[str, Any]:
        """What counts of it for an identity."""
        network = {PREFIX + name: value for name, value in canonical(self.network).items() if name not in OF_TRAINING}
        return canonical(self) | network


@dataclass(frozen=True, kw_only=True)
class Fkd:
    """The shares of files that were written beforehand, with the cuts that they are of (Shen and Xing 2022, "A Fast
    Knowledge Distillation Framework"): the first classes of each cut, with the rest spread evenly over the others.

    `soft_labels` is the folder of those files in that of the data set: one a training image, `CLASS/IMAGE.tar`.
    """

    name: ClassVar[str] = "fkd"
    semantics: ClassVar[int] = 1

    soft_labels: str = setting(default=FKD_FOLDER)


Targets: TypeAlias = Hard | Teacher | Fkd


def teacher_settings(networks: Mapping[str, Any], family: str) -> tuple[str, ...]:
    """The flat names of the settings of a teacher of this family; none of a family that is unknown."""
    return tuple(PREFIX + name for name in _names(networks[family])) if family in networks else ()


def _names(network: Any) -> tuple[str, ...]:
    return tuple(name for name in names_of(network) if name not in OF_TRAINING)
