"""How a cohort is computed on a device: the number of slots and the form of its convolutions.

The planner reads this too, so it knows no torch.
"""

from __future__ import annotations

from enum import StrEnum

from qsweep.sweeps.job import Job
from qsweep.sweeps.models import Model, is_transformer
from qsweep.sweeps.modules import Module
from qsweep.sweeps.training import Training


class Form(StrEnum):
    """How the convolutions of M models are computed. A model's bits depend on the form and the slots."""

    GATHER = "gather"
    """Gathered pixels, then one batched matrix product; see `workers.models.stage`."""
    LOOP = "loop"
    """One model after another by the library's convolutions, channels-last; see `workers.models.convolved`."""
    GROUPED = "grouped"
    """All models as the groups of one convolution of the library, channels-last; see the same. Transformers, which are
    batched matrix products in any form, go by this name; see `workers.models.transformer`."""
    COMPILED_LOOP = "compiled-loop"
    """As `LOOP`, with what lies between the convolutions compiled; see `workers.models.chained`."""
    COMPILED_GROUPED = "compiled-grouped"
    """As `GROUPED`, in the same way."""
    VMAP = "vmap"
    """All models in one call by `torch.func.vmap`: modules of users alone; see `workers.models.vmapped`."""

    @property
    def compiled(self) -> bool:
        """Whether it needs a compiler when it starts: never a default then."""
        return self in (Form.COMPILED_LOOP, Form.COMPILED_GROUPED)

    @property
    def grouped(self) -> bool:
        return self in (Form.GROUPED, Form.COMPILED_GROUPED)


RETIRED = frozenset({"blocks", "stacked"})
"""Forms of earlier versions: what was computed in them counts, and nothing more is (decisions 39 and 63)."""
MOST_SLOTS = 1024
"""More models side by side than any calibration tries."""


def known_form(slots: object, form: object, *, modules: bool = False) -> Form | None:
    """The form that a calibration names, if this version can run it in that many slots; of `modules` of users, or of
    the built-in networks.

    A calibration may come from an import or a newer version: one that can't be run must not make every launch of its
    shape fail, so a reader falls back to the default.
    """
    if not is_known(slots, form) or not isinstance(form, str) or form in RETIRED:
        return None
    found = Form(form)
    return None if found is Form.VMAP and not modules else found


def is_known(slots: object, form: object) -> bool:
    """Whether this version or an earlier one could compute in this form, in that many slots."""
    sound = isinstance(slots, int) and not isinstance(slots, bool) and 1 <= slots <= MOST_SLOTS
    return sound and isinstance(form, str) and form in {*Form, *RETIRED}


SAVED = 1 << 33
"""Bytes that a training pass may keep for its backward pass, where a batch may be taken in parts: part of the numerics,
so it is no setting."""
SMALL_IMAGE = 256
"""Pixels of an image up to which models are trained side by side on a CPU."""
LARGE_IMAGE = 64 * 64
"""Pixels of an image up to which pixels are gathered: of larger ones that takes too much memory."""
CPU_SLOTS = 12
GPU_SLOTS = 8
LARGE_SLOTS = 4
"""The same for large images on a GPU: the precisions of one network, which share the decoded images."""


def forms_of(precision: str, device_class: str, model: Model | None = None) -> tuple[Form, ...]:
    """The forms that a calibration chooses from, for a precision on a class of devices, and a network (a convolutional
    one, where none is named)."""
    if isinstance(model, Module):
        return Form.LOOP, Form.VMAP
    if is_transformer(model):
        return (Form.GROUPED,)
    library: tuple[Form, ...] = (Form.LOOP, Form.GROUPED)
    if device_class.startswith("cuda"):
        library += (Form.COMPILED_LOOP, Form.COMPILED_GROUPED)
    if precision == "bf16":
        return library
    return (Form.GATHER, *library)


def fills_slots(job: Job, form: str) -> bool:
    """Whether a slot that stays vacant costs as much as one in use. Modules that are trained one after another are not
    called for it: side by side they gain little, so their jobs are shared out over all agents."""
    return not (job.kind.is_calibrated and isinstance(job.training.model, Module) and form == Form.LOOP)


def default_form(
    training: Training, device_class: str, *, trains: bool = True, side_by_side: bool = True
) -> tuple[int, Form]:
    """Slots and form for a training on a class of devices, before any calibration there; measured only on CPUs.

    Measures of trained models (not `trains`) have one form, in single precision; jobs that are not computed
    `side_by_side` one slot.
    """
    if not side_by_side:
        return 1, Form.LOOP
    reduced = training.recipe.precision == "bf16"
    if not trains:
        return default_slots(training, device_class), Form.GATHER
    slots = default_slots(training, device_class)
    if isinstance(training.model, Module):
        return slots, Form.LOOP
    if is_transformer(training.model):
        return slots, Form.GROUPED
    if training.data.size**2 > LARGE_IMAGE:
        return slots, Form.LOOP
    if device_class.startswith("cuda"):
        return slots, Form.LOOP if reduced else Form.GATHER
    if slots == 1:
        return slots, Form.LOOP
    return slots, Form.GROUPED if reduced else Form.GATHER


def default_slots(training: Training, device_class: str) -> int:
    """How many models are trained side by side where nothing was calibrated."""
    if device_class.startswith("cuda"):
        return LARGE_SLOTS if training.data.size**2 > LARGE_IMAGE else GPU_SLOTS
    return CPU_SLOTS if training.data.size**2 <= SMALL_IMAGE else 1
