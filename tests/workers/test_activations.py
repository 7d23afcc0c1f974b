"""Quantized activations: against plain modules in double precision, alone and beside each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qsweep.sweeps.errors import InputError
from qsweep.sweeps.job import Job
from qsweep.sweeps.layers import ConvLayer
from qsweep.sweeps.measures import asked_of, measure_from
from qsweep.sweeps.models import NiN
from qsweep.sweeps.quantizers import Liq
from qsweep.sweeps.signals import Place, signals_of
from qsweep.sweeps.training import Training
from qsweep.workers.cohort import Cohort
from qsweep.workers.data import Images
from qsweep.workers.data.batches import Batches
from qsweep.workers.deployed import deployed
from qsweep.workers.forms import Form
from qsweep.workers.measures.inference import InTurn, SideBySide
from qsweep.workers.measures.measuring import measure_models
from qsweep.workers.models import network_of
from qsweep.workers.models.declaration import ConvLayout
from qsweep.workers.models.layout import Role
from qsweep.workers.quantizers.deployment import deployed_rows
from qsweep.workers.quantizers.liq import LiqWeights
from qsweep.workers.weights import Start, read_start
from tests.workers.oracle import Oracle, plain_model
from tests.workers.plain import PlainTraining, named
from tests.workers.sharp import SharpTraining
from tests.workers.test_equivalence import tensors
from tests.workers.test_independence import assert_same_bits, finish
from tests.workers.test_sharpness_aware import EVERY
from tests.workers.trainings import first, on, training

CPU = torch.device("cpu")
FAMILIES: dict[str, dict[str, Any]] = {
    "nin": {},
    "resnet": {},
    "cifar-resnet": {"depth": 20, "preact": True},
    "mobilenet": {},
    "mobilenet-v2": {"stem": "small"},
    "vgg": {},
}
RATE = 0.01


WIDTHS = (
    (2, 4, "saq"),
    (3, 3, "genie"),
    (4, 32, "saq"),
    (5, 5, "genie"),
    (6, 2, "saq"),
    (7, 7, "genie"),
    (8, 8, "saq"),
)
"""Bits of activations and weights, and whose custom the outer activations follow."""


SOME = {"nin": WIDTHS, "resnet": WIDTHS, "vgg": [(width, 32, custom) for width, _, custom in WIDTHS[3:]]}
"""Of families that are not asked about 2, 5 and 8 bits."""


def noise(images: Images) -> Images:
    """Random pictures: those of digits have corners in which channels are constant, and maxima are ties."""
    drawn = torch.randint(0, 17, images.train_images.shape, generator=torch.Generator().manual_seed(0))
    return dataclasses.replace(images, train_images=drawn.to(images.train_images.dtype))


def cohort_of(trainings: Sequence[Training], images: Images, **more: Any) -> Cohort:
    return Cohort(trainings, images, **{"slots": len(trainings), "form": Form.GATHER, "device": CPU, **more})


def moved_norms(row: Tensor, cohort: Cohort, seed: int) -> Tensor:
    """Parameters whose γ and β are apart from 1 and 0: a channel that is constant over a batch then lies at no kink."""
    drawn = torch.Generator().manual_seed(seed)
    for span in cohort.layout.spans_of(Role.SCALE, Role.SHIFT):
        place = span.of(row[None])
        place += 0.2 + 0.1 * torch.rand(place.shape, generator=drawn, dtype=row.dtype)
    return row


def begin(cohort: Cohort, trainings: Sequence[Training], plain: Sequence[PlainTraining], images: Tensor) -> None:
    """Let both begin at the same place, the plain ones with step sizes by these images."""
    for member, (one, reference) in enumerate(zip(trainings, plain, strict=True)):
        state = cohort.state(member)
        state["parameters"] = moved_norms(state["parameters"], cohort, member)
        cohort.restore(member, state)
        values = dict(cohort.layout.named(state["parameters"], state["statistics"]))
        for name, place in named(reference.net, one).items():
            place.copy_(values[name])
        reference.begin(images)


@pytest.mark.parametrize(
    ("model", "form", "quantizer", "activations"),
    [
        *((model, Form.GATHER, "lsq", "lsq") for model in FAMILIES if model != "mobilenet-v2"),
        pytest.param("mobilenet-v2", Form.GATHER, "lsq", "lsq", marks=pytest.mark.slow),
        ("nin", Form.GATHER, "liq", "liq"),
        ("nin", Form.GROUPED, "lsq", "lsq"),
        ("resnet", Form.LOOP, "liq", "lsq"),
        ("mobilenet-v2", Form.GROUPED, "lsq", "liq"),
    ],
)
def test_loss_and_every_gradient_equal_plain_modules(
    few: Images, model: str, form: Form, quantizer: str, activations: str
) -> None:
    """Every width in bits by every custom, in one step of plain descent. Rounded weights and few levels of activations
    make maxima of VGG that are ones of equals, and either may get the gradient."""
    images = noise(first(few, 24, 10))
    trainings = on(images, [
        training(
            model=model, bits=bits, quantizer=quantizer, activation_quantizer=activations, activation_bits=width,
            outer_activations=custom, outer_activation_bits=10 - width, seed=width, epochs=1,
            learning_rate=RATE, weight_decay=0.0, batch_size=24, **FAMILIES[model],
        )
        for width, bits, custom in SOME.get(model, WIDTHS[::3])
    ])  # fmt: skip
    cohort = cohort_of(trainings, images, form=form, dtype=torch.float64)
    batches = Batches(images, trainings[0].recipe, CPU, torch.float64)
    batches.open(0)
    plain = [PlainTraining(one) for one in trainings]
    begin(cohort, trainings, plain, batches.batch(0)[0])
    begun = [{name: place.clone() for name, place in named(one.net, training).items()}
             for training, one in zip(trainings, plain, strict=True)]  # fmt: skip
    cohort.step()
    for member, (one, reference) in enumerate(zip(trainings, plain, strict=True)):
        loss = reference.step(*batches.batch(0))
        found = tensors(cohort, member, one)
        assert cohort.history(member)[0]["train_loss"] == pytest.approx(loss, abs=1e-12)
        for name, tensor in named(reference.net, one).items():
            gradient = (tensor - begun[member][name]).abs().max() / RATE
            bound = RATE * 1e-10 * max(1.0, float(gradient))
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=bound, msg=f"{one.bits} {name}")


def test_whole_trainings_and_their_evaluation_equal_plain_modules(few: Images) -> None:
    """Decay of the step sizes, batches of two sizes, and the losses in evaluation mode."""
    images = noise(first(few, 40, 20))
    trainings = on(images, [
        training(
            optimizer=optimizer, bits=bits, quantizer=quantizer, activation_bits=bits - 1, batch_size=24, epochs=2,
            learning_rate=RATE, activation_quantizer="liq", decay_activation_step=bits == 4, seed=bits,
        )
        for optimizer, quantizer, bits in (("sgd", "liq", 4), ("adam", "lsq", 5))
    ])  # fmt: skip
    cohort = cohort_of(trainings, images, slots=3, dtype=torch.float64)
    batches = Batches(images, trainings[0].recipe, CPU, torch.float64)
    plain = [PlainTraining(one) for one in trainings]
    for epoch in range(2):
        batches.open(epoch)
        if not epoch:
            begin(cohort, trainings, plain, batches.batch(0)[0])
        for reference in plain:
            for number in range(2):
                reference.step(*batches.batch(number))
            reference.schedule.step()
    finish(cohort)
    for member, (one, reference) in enumerate(zip(trainings, plain, strict=True)):
        found = tensors(cohort, member, one)
        for name, tensor in named(reference.net, one).items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-10, msg=f"{one.optimizer.name} {name}")
    for one, result in zip(trainings, cohort.results(), strict=True):
        net = plain_model(one, result.model)
        pixels = batches.standardized(images.test_images)
        with torch.no_grad():
            wanted = torch.nn.functional.cross_entropy(net(pixels), images.test_labels)
        assert result.run["test_loss"] == pytest.approx(float(wanted), abs=1e-10)
        kept = {layer["layer"]: (layer["activation_bits"], layer["activation_step"]) for layer in result.layers}
        bits = one.activation_quantizer.activation_bits  # type: ignore[union-attr]
        assert kept["block0.conv0"] == (32, None)
        assert kept["block1.conv0"][0] == bits
        assert kept["block1.conv0"][1] == float(result.model["block1.conv0.activation.step"]) / (2**bits - 1)
        assert kept["head"][0] == 8


def test_every_method_moves_the_step_sizes_of_activations_as_plain_modules_do(few: Images) -> None:
    images = noise(first(few, 48, 10))
    trainings = on(images, [
        training(
            bits=4, quantizer="liq" if number % 2 else "lsq", activation_bits=3, rho=0.05, seed=number, batch_size=24,
            learning_rate=RATE, **one,
        )
        for number, one in enumerate(EVERY)
    ])  # fmt: skip
    cohort = cohort_of(trainings, images, dtype=torch.float64)
    plain = [SharpTraining(one) for one in trainings]
    batches = Batches(images, trainings[0].recipe, CPU, torch.float64)
    batches.open(0)
    begin(cohort, trainings, plain, batches.batch(0)[0])
    for number in range(2):
        cohort.step()
        for reference in plain:
            reference.step(*batches.batch(number))
    for member, (one, reference) in enumerate(zip(trainings, plain, strict=True)):
        found = tensors(cohort, member, one)
        for name, tensor in named(reference.net, one).items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-10, msg=f"{one.method} {name}")


@pytest.mark.parametrize("form", [Form.GATHER, Form.GROUPED, Form.LOOP])
@pytest.mark.parametrize("custom", ["genie", "lsq"])
def test_neighbours_place_and_an_interruption_change_no_bit(few: Images, form: Form, custom: str) -> None:
    """One that has not begun beside one that is ahead begins by itself."""
    trainings = on(few, [
        training(
            bits=bits, quantizer=quantizer, activation_bits=width, outer_activations=custom, seed=width,
            outer_activation_bits=10 - width, batch_size=104, learning_rate=RATE,
        )
        for quantizer, bits, width in (("lsq", 32, 8), ("liq", 4, 4), ("lsq", 2, 2))
    ])  # fmt: skip
    given: dict[str, Any] = {"slots": 4, "form": form}
    whole = finish(cohort_of(trainings, few, **given))
    (alone,) = finish(cohort_of(trainings[2:], few, **given))
    assert_same_bits(whole[2], alone)
    begun, other = cohort_of(trainings, few, **given), cohort_of(trainings[::-1], few, **given)
    for _ in range(4):
        begun.step()
    for member in (0, 2):
        other.restore(2 - member, begun.state(member))
    assert other.position == 0
    for one, again in zip(whole, finish(other)[::-1], strict=True):
        assert_same_bits(one, again)


def test_liq_by_hand() -> None:
    """methods: 2 bits, c = 1, four weights of a linear layer, which are not normalized."""
    layer = ConvLayer(name="head", inputs=4, outputs=1, kernel=1, stride=1, padding=0, side=1, bias=False, norm=False,
                      linear=True)  # fmt: skip
    layout = ConvLayout([layer])
    quantizer = LiqWeights([Liq(bits=2)], layout, CPU, torch.float64)
    rows = torch.zeros(1, layout.parameters_length, dtype=torch.float64)
    rows[0, :4] = torch.tensor([0.2, -0.5, 0.9, 1.4], dtype=torch.float64)
    layout.steps.of(rows).fill_(1.0)
    out = torch.zeros_like(rows)
    for place, of_clip in enumerate((1 / 3 - 0.2, 0.5 - 1 / 3, 0.1, 1.0)):
        rounding, gradients = quantizer.quantize(rows, out), torch.zeros_like(rows)
        gradients[0, place] = 1.0
        quantizer.differentiate(rounding, gradients)
        assert float(layout.steps.of(gradients)) == pytest.approx(of_clip, abs=1e-12)
        assert gradients[0, :4].tolist() == [float(one == place and place < 3) for one in range(4)]
    assert out[0, :4].tolist() == pytest.approx([1 / 3, -1 / 3, 1, 1], abs=1e-12)
    quantizer.round_copies(rows)
    assert torch.equal(rows[:, :4], out[:, :4])


def test_liq_deploys_convolutions_of_unit_deviation() -> None:
    """Shift and scale of a convolution's weights make no difference to what is deployed."""
    layer = ConvLayer(name="conv", inputs=64, outputs=8, kernel=3, stride=1, padding=1, side=4)
    layout = ConvLayout([layer])
    quantizer = LiqWeights([Liq(bits=8)], layout, CPU, torch.float64)
    rows = torch.zeros(2, layout.parameters_length, dtype=torch.float64)
    rows[0, : layout.weights] = torch.randn(layout.weights, generator=torch.Generator().manual_seed(0))
    rows[1, : layout.weights] = 0.01 * rows[0, : layout.weights] + 0.3
    layout.steps.of(rows).fill_(4.0)
    quantizer.round_copies(rows)
    assert torch.equal(*rows[:, : layout.weights])
    assert float(rows[0, : layout.weights].std()) == pytest.approx(1, abs=0.01)


@pytest.fixture(scope="module")
def trained(few: Images) -> tuple[list[Training], list[Mapping[str, Tensor]], Images]:
    images = noise(first(few, 120, 40))
    trainings = on(images, [
        training(
            bits=bits, quantizer=quantizer, activation_bits=width, activation_quantizer=activations, batch_size=60,
            learning_rate=RATE, seed=width, epochs=8,
        )
        for quantizer, bits, activations, width in (("lsq", 32, "lsq", 4), ("lsq", 3, "lsq", 3), ("lsq", 4, "lsq", 8))
    ])  # fmt: skip
    cohort = cohort_of(trainings, images, dtype=torch.float64)
    return trainings, [one.model for one in finish(cohort)], images


@pytest.mark.parametrize(
    "given",
    [
        {"measure": "pac_bayes", "noise_std": "corrected"},
        {"measure": "pac_bayes", "scaling": "magnitude", "perturb": "quantized"},
        {"measure": "sharpness", "ascent_rate": 0.01, "ascent_steps": 2},
        {"measure": "sharpness", "perturb_step": False, "scaling": "magnitude", "ascent_steps": 2, "ascent_rate": 0.01},
    ],
)
def test_measures_perturb_the_step_sizes_of_activations_as_the_oracle_does(
    trained: tuple[list[Training], list[Mapping[str, Tensor]], Images], given: dict[str, Any]
) -> None:
    trainings, models, images = trained
    wanted: Any = measure_from({**given, "iterations": 3, "copies": 2, "search_upper": 0.5})
    found = measure_models(trainings, models, wanted, images, device=CPU, dtype=torch.float64)
    for one, model, row in zip(trainings, models, found, strict=True):
        asked: Any = asked_of(wanted, one)
        trace = [(candidate["radius"], candidate["displacement"]) for candidate in row["trace"]]
        assert trace == Oracle(one, model, asked, images).search()[: len(trace)]


def test_a_deployed_module_and_the_judges_round_activations_alike(
    trained: tuple[list[Training], list[Mapping[str, Tensor]], Images],
) -> None:
    trainings, models, images = trained
    network = network_of(trainings[0])
    pixels = Batches(images, trainings[0].recipe, CPU, torch.float32).standardized(images.test_images)
    for one, model in zip(trainings, models, strict=True):
        single = {name: tensor.float() for name, tensor in model.items()}
        with torch.no_grad():
            logits = deployed(one, single)(pixels)
        rows, statistics = (row[None] for row in deployed_rows(one, single, network.layout, torch.float32))
        for judge in (SideBySide, InTurn):
            found = judge(network, pixels, images.test_labels).scores(rows, statistics)
            wanted = torch.nn.functional.cross_entropy(logits, images.test_labels)
            assert float(found.loss) == pytest.approx(float(wanted), abs=1e-4)
        assert hasattr(deployed(one, single).layers[1], "activation")


def test_without_an_epoch_the_step_sizes_begin_too(few: Images, tmp_path: Path) -> None:
    """Started from a kept model: of the same network with activations, or without."""
    (plain,) = on(few, [training(epochs=1, batch_size=104)])
    (result,) = finish(cohort_of([plain], few))
    path = tmp_path / "model.pt"
    torch.save(dict(result.model), path)
    (one,) = on(few, [training(epochs=0, milestones=[], weights="mine", activation_bits=4, batch_size=104)])
    start = read_start(one, path)
    (judged,) = cohort_of([one], few, start=start).results()
    (exact,) = cohort_of(on(few, [training(epochs=0, milestones=[], weights="mine", batch_size=104)]), few,
                         start=start_without(plain, path)).results()  # fmt: skip
    assert judged.run["test_loss"] == pytest.approx(exact.run["test_loss"], rel=0.3)
    assert judged.run["test_loss"] != exact.run["test_loss"]
    steps = [float(value) for name, value in judged.model.items() if name.endswith("activation.step")]
    assert len(steps) == 9
    assert 1.0 not in steps
    torch.save(dict(judged.model), path)
    assert torch.equal(read_start(plain, path).parameters, start_without(plain, path).parameters)


def start_without(one: Training, path: Path) -> Start:
    return read_start(one, path)


@pytest.mark.parametrize(
    ("model", "unsigned", "signed"),
    [
        ({"model": "resnet", "depth": 18, "width": 4}, 20, 0),
        ({"model": "cifar-resnet", "depth": 20, "preact": True}, 21, 0),
        ({"model": "mobilenet-v2", "stem": "small"}, 36, 19),
    ],
)
def test_what_comes_out_of_a_relu_is_unsigned(model: dict[str, Any], unsigned: int, signed: int) -> None:
    one = training(**model)
    signals = [one for one in signals_of(one.model.layers(one.data), one.data.size) if one.place is not Place.IMAGES]
    assert [one.signed for one in signals].count(False) == unsigned
    assert [one.signed for one in signals].count(True) == signed


def test_what_may_not_be_asked() -> None:
    for given, problem in (
        ({"activation_bits": 9}, "activation_bits: 9 is not allowed; allowed: 2, 3, 4, 5, 6, 7, 8, 32"),
        ({"activation_bits": 1}, "activation_bits: 1 is not allowed"),
        ({"activation_bits": 4, "activation_quantizer": "lsw"}, "activation_quantizer: 'lsw' is not known"),
        ({"activation_bits": 4, "outer_activations": "mine"}, "outer_activations: 'mine' is not allowed"),
        ({"activation_bits": 4, "outer_activation_bits": 32}, "outer_activation_bits: 32 is not allowed"),
        ({"activation_quantizer": "lsq"}, "activation_bits is missing"),
    ):
        with pytest.raises(InputError) as caught:
            training(**given)
        assert problem in str(caught.value)


def test_a_model_that_has_no_signals_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NiN, "quantizes_activations", False)
    with pytest.raises(InputError, match="activation_bits: the activations of nin-3x8 can't be quantized; allowed: 32"):
        training(activation_bits=4)


def test_full_precision_is_the_same_job_and_quantized_activations_train_beside_their_kind_alone() -> None:
    def job(**given: Any) -> Job:
        return Job(training=training(**given))

    assert job(activation_bits=32).identity == job().identity
    four, eight = job(activation_bits=4), job(activation_bits=8, outer_activations="genie", bits=4)
    assert four.cohort_key == eight.cohort_key
    others = [
        job(),
        job(activation_bits=4, outer_activations="lsq"),
        job(activation_bits=4, activation_quantizer="liq"),
    ]
    assert len({one.cohort_key for one in (four, *others)}) == 4
    assert (
        job(activation_bits=4, decay_activation_step=True, weight_decay=0.0).identity
        == job(activation_bits=4, weight_decay=0.0).identity
    )
