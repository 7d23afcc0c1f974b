"""Does it run, and compute what plain PyTorch computes? Every form, precision, optimizer and width in bits.

The plain models and the trainings are those of the test suite, on noise of CIFAR's shape.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_day.piece import Bench, Found, NotHere, Piece
from benchmarks.images import noise
from qsweep.orchestrator.planner import BASE_MEMORY, cohort_memory
from qsweep.sweeps.training import Training
from qsweep.workers import selfcheck
from qsweep.workers.cohort import Cohort
from qsweep.workers.data import Images
from qsweep.workers.data.batches import Batches
from qsweep.workers.data.targets import Targets
from qsweep.workers.device import device_class, precisions
from qsweep.workers.forms import Form, forms_of
from tests.workers.plain import PlainTraining, named
from tests.workers.trainings import CALM, RATES, mixture, on, training

STEPS = 10
EXACT = 1e-10
"""How far parameters may be from those of plain modules after STEPS steps in float64."""
CLOSE = {"fp32": 2e-3, "tf32": 2e-2, "bf16": 5e-2}
"""How far an epoch's mean loss may be from that of plain modules in float64, in the first STEPS steps."""
COMPILES = 300.0
"""Seconds that a piece may take whose form is compiled at its start."""
MODELS: dict[str, dict[str, Any]] = {
    "nin 2x8": {"width": 8, "depth": 2},
    "nin 3x10": {"width": 10, "depth": 3},
    "resnet18": {"model": "resnet", "width": 8},
}


def pieces(device: torch.device) -> list[Piece]:
    """What counts most first; what is compiled, which takes longest, after all that is not."""
    offered = {one: forms_of(one, "cuda" if device.type == "cuda" else "cpu") for one in precisions(device)}
    found: list[Piece] = []
    for compiled in (False, True):
        forms = {one: [form for form in of if form.compiled is compiled] for one, of in offered.items()}
        found += [_exact(form) for form in forms["fp32"]]
        found += [_epoch("nin 2x8", form, one) for one, of in forms.items() for form in of]
        found += [_bits(form) for form in forms["fp32"]]
        found += [_resumed(form) for form in forms["fp32"]]
        found += [_close(form, one) for one, of in forms.items() for form in of]
        found += [_memory()] if not compiled else []
        others = [model for model in MODELS if model != "nin 2x8"]
        found += [_epoch(model, form, one) for model in others for one, of in forms.items() for form in of]
    return found


def _piece(name: str, form: Form, target: str, work: Callable[[Bench], Found]) -> Piece:
    return Piece(name=name, target=target, work=work, limit=COMPILES if form.compiled else 120.0)


def _exact(form: Form) -> Piece:
    target = f"{STEPS} steps in float64: parameters within {EXACT:g} of plain modules"
    return _piece(f"equal/{form}", form, target, partial(equal, form=form))


def _close(form: Form, precision: str) -> Piece:
    target = f"mean losses of epochs within {CLOSE[precision]:g} of plain modules in float64"
    return _piece(f"close/{precision}/{form}", form, target, partial(close, form=form, precision=precision))


def _epoch(model: str, form: Form, precision: str) -> Piece:
    target = "finite, and learns; the second epoch never waits for the GPU; memory at most the planner's"
    work = partial(epoch, model=model, form=form, precision=precision)
    return _piece(f"epoch/{model}/{precision}/{form}", form, target, work)


def _bits(form: Form) -> Piece:
    target = "the same bits under other neighbours, in other places, and alone"
    return _piece(f"same bits/{form}", form, target, partial(same_bits, form=form))


def _resumed(form: Form) -> Piece:
    return _piece(f"resume/{form}", form, "resumed inside an epoch: the same bits", partial(resumed, form=form))


def _memory() -> Piece:
    target = "a cohort too large is out of memory; a smaller one then runs in the same process"
    return Piece(name="out of memory", target=target, work=out_of_memory)


@cache
def images_for(small: bool) -> Images:
    """A last batch smaller than the others is among an epoch's."""
    return noise("cifar10", 80, 32) if small else noise("cifar10", 2000, 256)


def settings_for(bench: Bench) -> dict[str, Any]:
    small = {"batch_size": 32, "channels_per_width": 2}
    return {"data": "cifar10", **(small if bench.small else {"batch_size": 128, "channels_per_width": 25})}


def trainings_for(bench: Bench, **settings: Any) -> list[Training]:
    """Every optimizer with every kind of width."""
    asked = {**settings_for(bench), **settings}
    if asked.get("model", "nin") != "nin":
        asked.pop("channels_per_width")
    return on(images_for(bench.small), mixture(**asked))


def cohort_for(bench: Bench, trainings: list[Training], form: Form, *, slots: int = 13) -> Cohort:
    """By default one slot more than a mixture has trainings: it stays vacant."""
    return Cohort(trainings, images_for(bench.small), slots=slots, form=form, device=bench.device)


@cache
def plain_course(device: torch.device, calm: tuple[Training, ...]) -> tuple[Any, ...]:
    """What plain modules find, each trained alone in float64: the losses of each step, and the tensors at the end."""
    plain = [PlainTraining(one) for one in calm]
    for one in plain:
        one.net.to(device)
    losses: list[list[float]] = []
    for number, batch in _batches(images_for(True), calm[0], device):
        if number == 0 and losses:
            for one in plain:
                one.schedule.step()
        losses.append([one.step(*batch) for one in plain])
    return losses, [named(one.net, training) for one, training in zip(plain, calm, strict=True)]


def _batches(images: Images, one: Training, device: torch.device) -> Iterator[tuple[int, tuple[Tensor, Targets]]]:
    batches = Batches(images, one.recipe, device, torch.float64)
    for step in range(STEPS):
        epoch, number = divmod(step, one.steps_per_epoch)
        if number == 0:
            batches.open(epoch)
        yield number, batches.batch(number)


def calm(precision: str) -> list[Training]:
    """Small trainings on few images, at rates at which a rounding error stays one."""
    return on(
        images_for(True),
        [
            training(
                data="cifar10",
                batch_size=32,
                depth=2,
                epochs=STEPS,
                precision=precision,
                optimizer=optimizer,
                bits=bits,
                learning_rate=RATES[optimizer] / 100,
                seed=bits,
                **CALM[optimizer],
            )
            for optimizer in RATES
            for bits in (32, 8, 4, 2)
        ],
    )


def equal(bench: Bench, form: Form) -> Found:
    """The engine's parameters and statistics against plain modules', in float64."""
    trainings = calm("fp32")
    cohort = Cohort(trainings, images_for(True), slots=13, form=form, device=bench.device, dtype=torch.float64)
    for _ in range(STEPS):
        cohort.step()
    _, wanted = plain_course(bench.device, tuple(trainings))
    furthest = 0.0
    for member, tensors in enumerate(wanted):
        state = cohort.state(member)
        found = dict(cohort.layout.named(state["parameters"], state["statistics"]))
        for name, tensor in tensors.items():
            furthest = max(furthest, float((found[name] - tensor.cpu()).abs().max()))
    return Found(figure=f"at most {furthest:.1e} apart", met=furthest <= EXACT, data={"furthest": furthest})


def close(bench: Bench, form: Form, precision: str) -> Found:
    """The engine's losses in a precision for training against plain modules' in float64."""
    trainings = calm(precision)
    cohort = Cohort(trainings, images_for(True), slots=13, form=form, device=bench.device)
    per_epoch = trainings[0].steps_per_epoch
    whole = STEPS // per_epoch
    for _ in range(whole * per_epoch):
        cohort.step()
    losses, _ = plain_course(bench.device, tuple(calm("fp32")))
    furthest = 0.0
    for member in range(len(trainings)):
        for row in cohort.history(member):
            at = (row["epoch"] - 1) * per_epoch
            mean = sum(step[member] for step in losses[at : at + per_epoch]) / per_epoch
            furthest = max(furthest, abs(row["train_loss"] - mean))
    met = furthest <= CLOSE[precision]
    return Found(figure=f"at most {furthest:.1e} apart", met=met, data={"furthest": furthest})


def epoch(bench: Bench, model: str, form: Form, precision: str) -> Found:
    """Two epochs: the first records or compiles, in the second nothing may wait for the GPU."""
    trainings = trainings_for(bench, precision=precision, **MODELS[model])
    if bench.small:  # a member of each optimizer and of each width in bits
        trainings = trainings[::5]
    slots = len(trainings) + 1
    cohort = cohort_for(bench, trainings, form, slots=slots)
    per_epoch = trainings[0].steps_per_epoch
    for _ in range(per_epoch + 1):
        cohort.step()
    bench.finish()
    began = time.perf_counter()
    with selfcheck.waiting_raises(bench.device):
        for _ in range(per_epoch - 1):
            cohort.step()
    bench.finish()
    rate = (per_epoch - 1) * len(trainings) / (time.perf_counter() - began)
    results = cohort.results()
    losses = [[row["train_loss"] for row in one.epochs] for one in results]
    finite = all(math.isfinite(loss) for course in losses for loss in course)
    learns = sum(course[-1] < course[0] for course in losses) >= len(losses) / 2
    planned = (cohort_memory(trainings[0], slots) - BASE_MEMORY) / 2**20
    peak = torch.cuda.max_memory_allocated(bench.device) / 2**20 if bench.device.type == "cuda" else None
    words = "finite" if finite else "NOT finite"
    words += f", {'learns' if learns else 'does NOT learn'}, {rate:.0f} model-steps/s"
    words += "" if peak is None else f", {peak:.0f} MiB of {planned:.0f} planned"
    met = finite and learns and (peak is None or peak <= planned)
    return Found(figure=words, met=met, data={"losses": losses, "rate": rate, "peak_mib": peak, "planned_mib": planned})


def same_bits(bench: Bench, form: Form) -> Found:
    """Two epochs each: together, in the other order, and two of them alone."""
    trainings = trainings_for(bench, **MODELS["nin 2x8"])
    return _with_same_bits(selfcheck.same_bits(trainings, images_for(bench.small), form, bench.device), trainings)


def resumed(bench: Bench, form: Form) -> Found:
    """Two epochs in one go, and with a break in the second."""
    trainings = trainings_for(bench, **MODELS["nin 2x8"])
    return _with_same_bits(selfcheck.resumed(trainings, images_for(bench.small), form, bench.device), trainings)


def _with_same_bits(other: list[int], trainings: list[Training]) -> Found:
    words = f"OTHER bits in the trainings {other}" if other else f"{len(trainings)} trainings, the same bits"
    return Found(figure=words, met=not other)


def out_of_memory(bench: Bench) -> Found:
    """With little memory allowed, many models side by side, then few."""
    if bench.device.type != "cuda":
        raise NotHere("the memory of a processor has no such limit")
    form = forms_of("fp32", device_class(bench.device))[0]
    some = trainings_for(bench, **MODELS["nin 3x10"])
    total = torch.cuda.get_device_properties(bench.device).total_memory
    planned = cohort_memory(some[0], 2) - BASE_MEMORY
    torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_reserved() + 4 * planned) / total))
    refused = False
    try:
        try:
            cohort = cohort_for(bench, some, form, slots=512)
            cohort.step()
        except torch.OutOfMemoryError:
            refused = True
        cohort = None  # type: ignore[assignment]
        gc.collect()
        torch.cuda.empty_cache()
        selfcheck.ended(cohort_for(bench, some[:2], form, slots=2))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    words = "512 models: out of memory; then 2 models ran" if refused else "512 models found room: nothing was shown"
    return Found(figure=words, met=refused)
