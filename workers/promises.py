"""Whether a module of a user keeps what trainings here promise: the same bits again, beside others, and when resumed.

Seen on noise, in a few steps of two models: what breaks later, or only with other data, is not seen.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import signal
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from qsweep.sweeps.errors import InputError
from qsweep.sweeps.modules import Module
from qsweep.sweeps.training import Training
from qsweep.workers.agent.endings import chain_of
from qsweep.workers.cohort import Cohort
from qsweep.workers.data import Images
from qsweep.workers.forms import Form
from qsweep.workers.models.named import network_of_module
from qsweep.workers.selfcheck import same_state
from qsweep.workers.user_code import is_copied

PATIENCE = 20.0
"""Seconds after which no more modules are looked at."""
LIMIT = 300.0
"""Seconds that looking at one module may take: one that hangs would hang the launch."""
BATCH, STEPS = 4, 3
OWN = "random numbers, or state, of its own beside its parameters and buffers"


class Hangs(BaseException):
    """A module has taken its time. No `Exception`: what it catches itself would go on."""


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raises Hangs after so many seconds, wherever Python is; a process that is elsewhere by then, in a library that
    does not come back, says on stderr where that is, and ends. For the main thread alone."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Hangs

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(seconds * 1.1 + 1.0, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def check_modules(trainings: Iterable[Training], device: torch.device) -> list[str]:
    """Which promises can't be kept for the modules of these trainings, in words. Raises InputError for a module that
    can't be trained at all, with where it fails."""
    until, broken, seen = time.monotonic() + PATIENCE, list[str](), set[tuple[Any, ...]]()
    for training in trainings:
        model = training.model
        if not isinstance(model, Module) or time.monotonic() > until:
            continue
        function = (model.code, model.source, training.data)
        try:
            with _limited(LIMIT):
                network_of_module(model, training.data)
                problem = None if function in seen else problem_of(training, device)
        except InputError:
            raise
        except torch.OutOfMemoryError:
            raise
        except Hangs as error:
            raise InputError(
                f"it is still at work after {LIMIT:g} s{_place_of(error)}",
                place=f"model {model.source}",
                allowed=f"a few steps on {BATCH} samples each, in that time; nothing was started",
            ) from error
        except Exception as error:
            raise InputError(
                f"it raises {type(error).__name__}: {error}{_place_of(error)}",
                place=f"model {model.source}",
                allowed="nothing was started: mend it, and launch again",
            ) from error
        if problem is not None:
            broken.append(f"{model.title}: {problem}")
        seen.add(function)
    return broken


def problem_of(training: Training, device: torch.device) -> str | None:
    """What can't be promised of this training's module, in words; None if nothing was found."""
    assert isinstance(training.model, Module)
    if replaced := sorted(network_of_module(training.model, training.data).seen.replaced):
        return f"it puts another tensor in the place of its buffer {replaced[0]}, which is lost: change it in place"
    recipe = dataclasses.replace(
        training.recipe,
        epochs=1,
        batch_size=BATCH,
        milestones=(),
        val_fraction=0.0,
        augment="none",
        select_by="running",
    )
    noise = _noise(training, BATCH * STEPS)
    one, other = (
        dataclasses.replace(training, data=noise.data, recipe=dataclasses.replace(recipe, seed=seed)) for seed in (0, 1)
    )

    def states(members: Sequence[Training], *, resumes: bool = False) -> list[dict[str, Any]]:
        return list(_states(members, noise, device, resumes=resumes))

    alone = states([one])
    if not _same(alone, states([one])):
        return (
            "two equal trainings end with other bits (an operation that is not deterministic, or "
            f"{OWN}): results can't be repeated bit for bit"
        )
    if not _same(alone, states([other, one])[1:]):
        return f"a training depends on what is trained beside it ({OWN})"
    if not _same(alone, states([one], resumes=True)):
        return f"a resumed training ends with other bits than one without a break ({OWN})"
    return None


def why_not_stacked(training: Training, slots: int, device: torch.device) -> str | None:
    """Why models of this training's module can't be computed by `torch.func.vmap` side by side, in words; None if they
    can: then a model's bits depend neither on its place nor on the others."""
    model = training.model
    assert isinstance(model, Module)
    if network_of_module(model, training.data).seen.random_elsewhere:
        return "it draws from Python's or numpy's random numbers, which are each model's own only one after another"
    if training.activation_quantizer is not None:
        return "its activations are quantized, which is done for one after another"
    recipe = dataclasses.replace(training.recipe, epochs=1, milestones=(), val_fraction=0.0, augment="none")
    noise = _noise(training, training.recipe.batch_size * 2 + 1)
    one = dataclasses.replace(training, data=noise.data, recipe=recipe)
    others = [
        dataclasses.replace(one, recipe=dataclasses.replace(recipe, seed=recipe.seed + number))
        for number in range(1, slots)
    ]
    try:
        alike, apart = (
            list(_states(members, noise, device, form=Form.VMAP, slots=slots))
            for members in ([one] * slots, [one, *others])
        )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
    if all(same_state(alike[0], state) for state in (*alike, apart[0])):
        return None
    return "a model's last bits depend on its place or its neighbours"


def _same(some: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> bool:
    return all(same_state(one, other) for one, other in zip(some, others, strict=True))


def _states(
    members: Sequence[Training],
    images: Images,
    device: torch.device,
    *,
    resumes: bool = False,
    form: Form = Form.LOOP,
    slots: int = 2,
) -> Iterator[dict[str, Any]]:
    """What each ends with; resumed, it goes on in another cohort after a step."""
    cohort = Cohort(members, images, slots=slots, form=form, device=device)
    if resumes:
        cohort.step()
        half = [cohort.state(member) for member in range(len(members))]
        cohort = Cohort(members, images, slots=slots, form=form, device=device)
        for member, state in enumerate(half):
            cohort.restore(member, state)
    while not cohort.finished:
        cohort.step()
    for member in range(len(members)):
        yield cohort.state(member)


def _noise(training: Training, count: int) -> Images:
    """So many images of noise, with labels."""
    data = training.data
    few = dataclasses.replace(data, train_images=count, test_images=BATCH)
    generator = torch.Generator().manual_seed(0)

    def images(number: int) -> Tensor:
        shape = (number, *data.shape)
        if data.values == "float32":
            return torch.randn(shape, generator=generator)
        return torch.randint(0, data.peak + 1, shape, generator=generator, dtype=torch.uint8)

    labels = torch.arange(count) % data.classes
    return Images(
        data=few,
        train_images=images(count),
        train_labels=labels,
        test_images=images(BATCH),
        test_labels=labels[:BATCH],
    )


def _place_of(error: BaseException) -> str:
    """The last line of the user's code that the error went through."""
    frames = [one for some in chain_of(error) for one in traceback.extract_tb(some.__traceback__)]
    own = [one for one in frames if is_copied(one.filename)]
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno}, in {own[-1].name})" if own else ""
