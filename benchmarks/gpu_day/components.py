"""Does every component compute what it should? Those of `sweeps.components` and the kinds of jobs without data.

The pieces follow from the tables: a component or a way to synthesize or to round that is added there has one here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_day.piece import Bench, Found, NotHere, Piece
from benchmarks.images import noise
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.training import Training
from qsweep.sweeps.zero_shot import ROUNDINGS, SYNTHESES, Genie
from qsweep.workers import selfcheck
from qsweep.workers.cohort import Cohort
from qsweep.workers.data import Images
from qsweep.workers.device import device_class
from qsweep.workers.forms import Form, default_form, forms_of
from qsweep.workers.zero_shot.quantization import ModelQuantizer
from qsweep.workers.zero_shot.synthesis import Synthesizer
from tests.workers.trainings import COMPONENTS, model_of, on, training, with_component

STEPS = 3
EXACT = 1e-8
"""How far parameters may be from the processor's after STEPS steps in float64, and what jobs without data make."""
CLOSE = 0.05
"""The same where a last bit decides between two levels of an activation, or whether ReLU lets a constant channel pass.
"""
DECIDED_BY_BITS = ("activation_quantizer/", "model/vgg")
FEW_BITS = {"weight_bits": 4, "activation_bits": 4}
SIZES: dict[str, Any] = {
    "image_count": 8, "image_batch": 8, "image_iterations": STEPS, "sharp_iterations": STEPS, "embedding_size": 8,
    "unit_iterations": STEPS, "unit_batch": 5,
}  # fmt: skip
CPU = torch.device("cpu")


def pieces(device: torch.device) -> list[Piece]:
    trained = "within {:g} of the processor in float64; no step waits; the same bits beside others and when resumed"
    made = f"within {EXACT:g} of the processor in float64"
    found = []
    for part, name in COMPONENTS:
        work = partial(trains, part=part, name=name)
        found.append(Piece(name=f"{part}/{name}", target=trained.format(_bound(part, name)), work=work))
    learned = (name for name, one in SYNTHESES.items() if issubclass(one, Genie))
    found += [Piece(name=f"images/{name}", target=made, work=partial(synthesizes, name=name)) for name in learned]
    found += [Piece(name=f"rounding/{name}", target=made, work=partial(rounds, name=name)) for name in ROUNDINGS]
    return found


def _bound(part: str, name: str) -> float:
    return CLOSE if f"{part}/{name}".startswith(DECIDED_BY_BITS) else EXACT


@cache
def images() -> Images:
    """Of the digits' shape; the last batch of an epoch is smaller than the others."""
    return noise("digits", 80, 32)


def trainings_of(part: str, name: str) -> list[Training]:
    """Three models with a component."""
    calm = {"batch_size": 32, "learning_rate": 1e-3, "epochs": 2}
    return on(images(), [with_component(part, name, seed=seed, **calm) for seed in range(3)])


def trains(bench: Bench, part: str, name: str) -> Found:
    """Some steps in double precision against the processor's in another form; two epochs in single precision."""
    try:
        trainings = trainings_of(part, name)
        form = default_form(trainings[0], device_class(bench.device))[1]
        others = [one for one in forms_of("fp32", "cpu", trainings[0].model) if one is not form] or [form]
        furthest = _furthest(_stepped(trainings, form, bench.device), _stepped(trainings, others[0], CPU))
    except InputError as error:
        raise NotHere(str(error)) from None
    _without_waiting(trainings, form, bench)
    compared = (selfcheck.same_bits, selfcheck.resumed)
    odd = sorted({one for compare in compared for one in compare(trainings, images(), form, bench.device)})
    words = f"at most {furthest:.1e} apart, " + (f"OTHER bits in the trainings {odd}" if odd else "the same bits")
    return Found(
        figure=words, met=furthest <= _bound(part, name) and not odd, data={"furthest": furthest, "form": form.value}
    )


def _stepped(trainings: list[Training], form: Form, device: torch.device) -> list[dict[str, Any]]:
    cohort = Cohort(trainings, images(), slots=len(trainings) + 1, form=form, device=device, dtype=torch.float64)
    for _ in range(STEPS):
        cohort.step()
    return [cohort.state(member) for member in range(len(trainings))]


def _furthest(some: list[dict[str, Any]], others: list[dict[str, Any]]) -> float:
    pairs = zip(some, others, strict=True)
    return max(float((one["parameters"] - other["parameters"]).abs().max()) for one, other in pairs)


def _without_waiting(trainings: list[Training], form: Form, bench: Bench) -> None:
    """A second epoch, from its beginning on: its graphs are recorded by then. Raises where the host waits."""
    cohort = Cohort(trainings, images(), slots=len(trainings) + 1, form=form, device=bench.device)
    for _ in range(trainings[0].steps_per_epoch):
        cohort.step()
    bench.finish()
    with selfcheck.waiting_raises(bench.device):
        while not cohort.finished:
            cohort.step()
    cohort.close()


def residual() -> Training:
    """A small network with skips and strided convolutions."""
    return training(model="cifar-resnet", depth=20, width=2)


def synthesizes(bench: Bench, name: str) -> Found:
    """Images from a model, here and by the processor."""
    one, asked = residual(), _asked(SYNTHESES[name])

    def made(device: torch.device) -> dict[str, Tensor]:
        found = Synthesizer(one, model_of(one), asked, device=device, dtype=torch.float64)
        while not found.finished:
            found.step()
        return {"images": found.images()}

    return _compared(made, bench)


def rounds(bench: Bench, name: str) -> Found:
    """A model that is rounded on images, here and by the processor."""
    one, asked = residual(), _asked(ROUNDINGS[name])
    draws = torch.Generator().manual_seed(9)
    seen = torch.randn(40, one.data.channels, one.data.size, one.data.size, generator=draws, dtype=torch.float64)

    def made(device: torch.device) -> Mapping[str, Any]:
        found = ModelQuantizer(one, model_of(one), asked, seen, device=device, dtype=torch.float64)
        while not found.finished:
            found.step()
        return found.content()

    return _compared(made, bench)


def _asked(settings: type[Any]) -> Any:
    names = settings.__dataclass_fields__
    return settings(**{name: value for name, value in {**FEW_BITS, **SIZES}.items() if name in names})


def _compared(made: Callable[[torch.device], Mapping[str, Any]], bench: Bench) -> Found:
    here, there = made(bench.device), made(CPU)
    tensors = {name: one for name, one in here.items() if isinstance(one, Tensor)}
    furthest = max(float((one.double() - there[name].double()).abs().max()) for name, one in tensors.items())
    words = f"{len(tensors)} tensors, at most {furthest:.1e} apart"
    return Found(figure=words, met=furthest <= EXACT, data={"furthest": furthest})
