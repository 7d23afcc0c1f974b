"""Does this device compute what it should? For `qsweep doctor --gpu`.

Small trainings on the digits, with every optimizer and every width in bits: in double precision
against the processor, in every precision of the device for an epoch, with the same bits whatever trains beside them,
and across an interruption. What compiles at its start, and takes longest, comes last; what there was no time for is
said.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from qsweep.sweeps.datasets import DATASETS
from qsweep.sweeps.questions import CheckDevice
from qsweep.sweeps.training import Training
from qsweep.workers.cohort import Cohort
from qsweep.workers.data import Images, load
from qsweep.workers.device import device_class, precisions, this_device
from qsweep.workers.forms import Form, forms_of

EXACT = 1e-10
"""How far parameters may be from the processor's after an epoch in double precision."""
RATES = {"sgd": 0.1, "adam": 0.01, "rmsprop": 0.002}
BITS = (32, 8, 4, 2)
SLOTS = len(RATES) * len(BITS) + 1
"""One more than there are trainings: it stays vacant."""
IMAGES = 320
"""Of the digits; the last batch of an epoch is smaller than the others."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One question to the device."""

    form: Form
    precision: str
    what: str
    ask: Callable[[], tuple[bool, str]]
    """Whether the answer is the right one, and in words."""


def check(asked: CheckDevice) -> dict[str, Any]:
    """What the first device that this process sees is, and the answers to the checks that there is time for."""
    torch.set_num_threads(1)
    return examine(this_device(), seconds=asked.seconds)


def examine(device: torch.device, *, seconds: float) -> dict[str, Any]:
    """What the device is, and the answer to each check: `ok` is None where there was no time for it."""
    until = time.monotonic() + seconds
    answers = []
    for check in checks(device):
        ok, text = (None, "no time was left") if time.monotonic() > until else _answer(check)
        answers.append({"form": check.form, "precision": check.precision, "what": check.what, "ok": ok, "text": text})
    return {"device": describe(device), "precisions": list(precisions(device)), "checks": answers}


def describe(device: torch.device) -> str:
    """The device in words."""
    if device.type != "cuda":
        return device_class(device)
    known = torch.cuda.get_device_properties(device)
    return f"{known.name}, {known.total_memory / 1e9:.0f} GB, compute capability {known.major}.{known.minor}"


def checks(device: torch.device) -> Iterator[Check]:
    """Every check: what decides most first."""
    offered = {one: forms_of(one, device.type) for one in precisions(device)}
    for compiled in (False, True):
        exact = [form for form in offered["fp32"] if form.compiled is compiled]
        for form in exact:
            what, ask = "equals the processor in double precision", partial(equals_processor, form, device)
            yield Check(form=form, precision="fp64", what=what, ask=ask)
        for precision, forms in offered.items():
            for form in (form for form in forms if form.compiled is compiled):
                what, ask = "learns, and never waits for the device", partial(learns, form, device, precision)
                yield Check(form=form, precision=precision, what=what, ask=ask)
        for form in exact:
            for what, compare in (("same bits beside other models", same_bits), ("same bits when resumed", resumed)):
                ask = partial(_same_everywhere, compare, form, device)
                yield Check(form=form, precision="fp32", what=what, ask=ask)


def _answer(check: Check) -> tuple[bool, str]:
    try:
        return check.ask()
    except Exception as error:  # whatever the device does is the answer
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        return False, f"{type(error).__name__}: {reason}"


def equals_processor(form: Form, device: torch.device) -> tuple[bool, str]:
    """An epoch of every training in float64, against the same on the processor by gathered pixels."""
    trainings = trainings_of(images())
    states = ended(Cohort(trainings, images(), slots=SLOTS, form=form, device=device, dtype=torch.float64))
    pairs = zip(states, _on_the_processor(), strict=True)
    furthest = max(float((one["parameters"] - other["parameters"]).abs().max()) for one, other in pairs)
    return furthest <= EXACT, f"at most {furthest:.1e} apart"


@cache
def _on_the_processor() -> list[dict[str, Any]]:
    processor = torch.device("cpu")
    trainings = trainings_of(images())
    return ended(Cohort(trainings, images(), slots=SLOTS, form=Form.GATHER, device=processor, dtype=torch.float64))


def learns(form: Form, device: torch.device, precision: str) -> tuple[bool, str]:
    """Two epochs; in the second, after everything is recorded or compiled, nothing may wait for the device."""
    trainings = trainings_of(images(), precision=precision)
    cohort = Cohort(trainings, images(), slots=SLOTS, form=form, device=device)
    steps = trainings[0].steps_per_epoch
    for _ in range(steps + 1):
        cohort.step()
    _finish(device)
    began = time.perf_counter()
    with waiting_raises(device):
        for _ in range(steps - 1):
            cohort.step()
    _finish(device)
    rate = (steps - 1) * len(trainings) / (time.perf_counter() - began)
    losses = [[row["train_loss"] for row in cohort.history(member)] for member in range(len(trainings))]
    finite = all(math.isfinite(loss) for course in losses for loss in course)
    falling = sum(course[-1] < course[0] for course in losses)
    words = f"{rate:,.0f} model-steps/s" if finite else "a loss is not finite"
    return finite and 2 * falling >= len(losses), f"{words}, {falling} of {len(losses)} losses fall"


def _same_everywhere(
    compare: Callable[[Sequence[Training], Images, Form, torch.device], list[int]], form: Form, device: torch.device
) -> tuple[bool, str]:
    other = compare(trainings_of(images()), images(), form, device)
    return not other, f"other bits in {len(other)} of {SLOTS - 1} trainings" if other else "all bits equal"


def same_bits(trainings: Sequence[Training], data: Images, form: Form, device: torch.device) -> list[int]:
    """The trainings with other bits in the other order, or with one neighbour alone, than all together."""

    def states(some: Sequence[Training]) -> list[dict[str, Any]]:
        return ended(Cohort(some, data, slots=len(trainings) + 1, form=form, device=device))

    together, turned = states(trainings), states(trainings[::-1])[::-1]
    other = {member for member, state in enumerate(together) if not same_state(state, turned[member])}
    apart = (len(trainings) // 4, 2 * len(trainings) // 3)
    alone = states([trainings[member] for member in apart])
    other |= {member for member, state in zip(apart, alone, strict=True) if not same_state(together[member], state)}
    return sorted(other)


def resumed(trainings: Sequence[Training], data: Images, form: Form, device: torch.device) -> list[int]:
    """The trainings with other bits after an interruption inside their last epoch than without one."""
    whole, half, again = (Cohort(trainings, data, slots=len(trainings) + 1, form=form, device=device) for _ in range(3))
    for _ in range(whole.steps - trainings[0].steps_per_epoch + 1):
        half.step()
    for member in range(len(trainings)):
        again.restore(member, half.state(member))
    pairs = zip(ended(whole), ended(again), strict=True)
    return [member for member, (one, other) in enumerate(pairs) if not same_state(one, other)]


def ended(cohort: Cohort) -> list[dict[str, Any]]:
    """Every member's state after the last step."""
    while not cohort.finished:
        cohort.step()
    states = [cohort.state(member) for member in cohort.left]
    cohort.close()
    return states


def same_state(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two states have equal bits; a NaN equals a NaN."""
    return all(
        torch.equal(value.nan_to_num(), other[name].nan_to_num()) if isinstance(value, Tensor) else value == other[name]
        for name, value in one.items()
    )


@contextmanager
def waiting_raises(device: torch.device) -> Iterator[None]:
    """On a GPU whatever makes the host wait for it raises."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@cache
def images() -> Images:
    """Some of the digits."""
    whole = load(DATASETS["digits"], None, download=False)
    return dataclasses.replace(
        whole,
        data=dataclasses.replace(whole.data, train_images=IMAGES, test_images=IMAGES),
        train_images=whole.train_images[:IMAGES],
        train_labels=whole.train_labels[:IMAGES],
        test_images=whole.test_images[:IMAGES],
        test_labels=whole.test_labels[:IMAGES],
    )


def trainings_of(data: Images, *, precision: str = "fp32") -> list[Training]:
    """Every optimizer with every width in bits, for two epochs."""
    some = [
        Training.from_settings(
            {
                "data": "digits", "model": "nin", "width": 4, "depth": 2, "channels_per_width": 2, "epochs": 2,
                "batch_size": 100, "optimizer": optimizer, "learning_rate": rate / 10, "weight_decay": 1e-3,
                "bits": bits, "seed": bits, "precision": precision,
            }
        )
        for optimizer, rate in RATES.items()
        for bits in BITS
    ]  # fmt: skip
    return [dataclasses.replace(one, data=data.data) for one in some]


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
