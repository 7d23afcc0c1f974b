"""What takes the model of a quantization on images computes exactly that: measures, distortions, landscapes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import qsweep
from qsweep.db.audit import audit
from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.results import ResultStore
from qsweep.db.states import State
from qsweep.sweeps.job import Job
from qsweep.sweeps.kinds import kind_of
from qsweep.sweeps.landscape import LINE, Landscape
from qsweep.sweeps.measures import Distortion, PacBayes, Sharpness, asked_of
from qsweep.sweeps.training import Training
from qsweep.sweeps.zero_shot import Nearest, Noise
from qsweep.workers.data import Images, Part, source_of
from qsweep.workers.deployed import deployed
from qsweep.workers.landscape import Survey
from qsweep.workers.measures.ascent import Ascent
from qsweep.workers.measures.draws import balanced
from qsweep.workers.measures.inference import InTurn, SideBySide
from qsweep.workers.measures.point import make_point
from qsweep.workers.models import network_of
from qsweep.workers.zero_shot.quantization import ModelQuantizer
from qsweep.workers.zero_shot.student import Student
from tests.workers.test_agent import agent, register
from tests.workers.test_quantization_jobs import chain
from tests.workers.test_reconstruction import ASKED, CPU, RESNET, WIDE, Plain, images_for, model_of
from tests.workers.trainings import training

NEAREST = Nearest(weight_bits=2, activation_bits=3)
PAC = PacBayes(noise_std="corrected", iterations=2, copies=2)
WORST = Sharpness(iterations=1, copies=2, ascent_steps=2)


def kept(one: Training) -> dict[str, Any]:
    """What a job would keep of a model that is rounded to nearest."""
    return ModelQuantizer(one, model_of(one), NEAREST, images_for(one), device=CPU, dtype=WIDE).content()


def asked(measure: Any, one: Training) -> Any:
    return asked_of(measure, one, quantized=True)


def rows_of(one: Training, content: dict[str, Any], copies: int = 1) -> tuple[Any, Tensor, Tensor]:
    network = network_of(one, quantized=True)
    rows, statistics = (row[None].expand(copies, -1) for row in network.layout.packed(content))
    return network, rows, statistics


def plain_of(one: Training) -> Plain:
    plain = Plain(one, dataclasses.replace(ASKED, weight_bits=2, activation_bits=3), images_for(one))
    plain.calibrate()
    return plain


def logits_of(plain: Plain, images: Tensor) -> Tensor:
    rounded = plain.run(
        {None: images}, plain.names, plain.used, lambda x, key, _: plain.acts[key].rounded(x, plain.acts[key].step)
    )
    return rounded[plain.names[-1]].mean((2, 3))


def test_every_evaluation_is_that_of_plain_torch_in_float64() -> None:
    one = training(**RESNET)
    content, plain, images = kept(one), plain_of(one), images_for(one, 50)
    with torch.no_grad():
        wanted = logits_of(plain, images)
    network, rows, statistics = rows_of(one, content, copies=2)
    views = network.views(network.layout.tensors(rows, rows, statistics))
    labels = wanted.argmax(1).clone()
    labels[::3] = 0
    right = int((wanted.argmax(1) == labels).sum())
    with torch.no_grad():
        module = deployed(one, content, quantized=True).double()
        found = [network.evaluate(images, views), network.ready(views)(images.contiguous())]
        for logits in (*(model.T for each in found for model in each), module(images)):
            torch.testing.assert_close(logits, wanted, rtol=1e-6, atol=1e-6)  # the module's parameters are float32
        for judge in (SideBySide(network, images, labels), InTurn(network, images, labels)):
            assert judge.hits(rows, statistics).tolist() == [right] * 2
            losses = judge.scores(rows, statistics).loss
            assert losses.tolist() == pytest.approx([float(F.cross_entropy(wanted, labels))] * 2, rel=1e-10)
    # A skip that were not rounded would show.
    unrounded = [dataclasses.replace(view, added=None) for view in views]
    assert float((network.evaluate(images, unrounded)[0].T - wanted).abs().max()) > 1e-3


@pytest.mark.parametrize(
    "settings",
    [{**RESNET, "preact": True}, {"model": "mobilenet-v2", "width": 4}, {"model": "nin", "width": 4, "depth": 1}],
    ids=["preact", "mobilenet-v2", "nin"],
)
def test_every_network_is_evaluated_as_the_student_that_was_quantized(settings: dict[str, Any]) -> None:
    one = training(**settings)
    images = images_for(one)
    student = Student(one, model_of(one), weight_bits=2, activation_bits=3, device=CPU, dtype=WIDE)
    student.calibrate(images[:32])
    network, rows, statistics = rows_of(one, kept(one))
    views = network.views(network.layout.tensors(rows, rows, statistics))
    with torch.no_grad():
        wanted = student.see(images)[0]
        for logits in (network.evaluate(images, views)[0].T, network.ready(views)(images)[0].T):
            torch.testing.assert_close(logits, wanted, rtol=1e-9, atol=1e-9)


def test_training_images_are_judged_as_many_as_were_asked_for(few: Images) -> None:
    one = dataclasses.replace(training(**RESNET), data=few.data)
    asked = dataclasses.replace(NEAREST, train_samples=40)
    made = ModelQuantizer(one, model_of(one), asked, images_for(one), device=CPU, dtype=WIDE)
    source = source_of(few, one.recipe, CPU, WIDE)
    found = made.judge(source, Part.TRAIN)
    images, labels = next(source.chosen(balanced(source.labels(Part.TRAIN), 40, 0), 40))
    with torch.no_grad():
        wanted = float(F.cross_entropy(logits_of(plain_of(one), images), labels))
    assert (found.images, torch.bincount(labels).tolist()) == (40, [4] * 10)
    assert float(found.loss) == pytest.approx(wanted, rel=1e-9)
    assert made.judge(source, Part.TEST).images == len(few.test_labels)


def test_an_ascent_climbs_the_gradient_of_plain_torch() -> None:
    one = training(**RESNET)
    content, plain, images = kept(one), plain_of(one), images_for(one, 20)
    labels = torch.arange(20) % 10
    network = network_of(one, quantized=True)
    point = make_point(one, content, network, asked(WORST, one), WIDE)
    assert (point.folded, point.quantizer) == (False, None)
    ascent = Ascent(network, [point], 1)
    gradients = ascent.gradients(torch.zeros_like(ascent.centres), images, labels)
    plain.used = {name: weight.clone().requires_grad_() for name, weight in plain.used.items()}
    F.cross_entropy(logits_of(plain, images), labels).backward()
    found = network.layout.tensors(gradients, gradients, point.statistics[None])
    for name in plain.names:
        torch.testing.assert_close(found[f"{name}.weight"][0, :, :, :, :], plain.used[name].grad, rtol=1e-6, atol=1e-9)
    assert len(plain.acts) > 5
    for signal in network.layout.signals:
        key = f"{plain.source[signal.layer]}/{plain.layers[signal.layer].pool is not None}"
        torch.testing.assert_close(found[f"{signal.layer}.activation.step"][0], plain.acts[key].step.grad,
                                   rtol=1e-6, atol=1e-9)  # fmt: skip
    still = make_point(one, content, network, asked(dataclasses.replace(WORST, perturb_step=False), one), WIDE)
    assert float(point.mask.sum() - still.mask.sum()) == len(plain.acts)


def test_conventions_that_make_no_difference_are_at_their_defaults() -> None:
    one = training(**RESNET)
    latent, folded = PacBayes(), PacBayes(perturb="quantized", fold_bn="none", perturb_folded="none")
    assert asked(latent, one) == asked(folded, one)
    assert asked(latent, one).perturb == "quantized"
    assert asked(PacBayes(perturb_step=False), one) != asked(latent, one)
    assert asked(PacBayes(fold_bn="all"), one).folds(one, quantized=True)


def test_an_agent_measures_the_models_of_quantizations(home: Home, registry: Registry, digits: Images) -> None:
    jobs = chain(Noise(image_count=16), Nearest(weight_bits=2, activation_bits=4))
    trained, _, quantize = jobs
    fog = Distortion(corruption="fog", severity=1)
    for parent in (trained, quantize):
        above = () if parent is trained else (*quantize.above, quantize.measure)
        for measure in (PAC, WORST, fog):
            what = asked_of(measure, parent.training, quantized=parent is quantize)
            job = Job(training=parent.training, kind=kind_of(what), parent=parent.identity, measure=what, above=above)  # type: ignore[arg-type]
            assert Job.from_json(job.to_json()) == job
            jobs.append(job)
    assert len({job.cohort_key for job in jobs}) == len(jobs)
    sweep = register(registry, *jobs)
    agent(home, registry).run()
    done = {one.identity: one for one in registry.catalogue.jobs(sweep)}
    assert {one.state for one in done.values()} == {State.DONE}
    assert audit(home, deep=True) == []
    pointers, store = registry.catalogue.committed(sweep), ResultStore(home.store)
    (quantized,) = store.read("quantizations", pointers).to_pylist()
    for kind, count in (("measures", 4), ("distortions", 2)):
        rows = store.read(kind, pointers).to_pylist()
        assert len(rows) == count
        for row in rows:
            mine = row["parent"] == quantize.identity
            assert (row["images"], row["rounding"], row["weight_bits"]) == (
                ("noise", "nearest", 2) if mine else (None,) * 3
            )
            assert row["model_hash"] == done[row["parent"]].model_hash
            if mine:
                part = "train" if kind == "measures" else "test"
                assert row["clean_accuracy"] == pytest.approx(quantized[f"{part}_accuracy"], abs=2e-3)
    module = qsweep.load_model(quantize.identity, home=home.root)
    source = source_of(digits, quantize.training.recipe, CPU, torch.float32)
    batches = list(source.passes(Part.TEST, 360))
    hits = sum(int((module(images).argmax(1) == labels).sum()) for images, labels in batches)
    assert hits / 359 == pytest.approx(quantized["test_accuracy"], abs=3e-3)


def test_the_middle_of_a_landscape_is_the_model(few: Images, tmp_path: Path) -> None:
    one = dataclasses.replace(training(**RESNET), data=few.data)
    content = kept(one)
    line = Landscape(view=LINE, points=3).asked_of(one, quantized=True)
    found = Survey([one], [content], line, few, device=CPU, dtype=WIDE, quantized=True).scores(0, 3)
    source = source_of(few, one.recipe, CPU, WIDE)
    images, labels = next(source.chosen(torch.arange(len(few.train_labels)), len(few.train_labels)))
    with torch.no_grad():
        wanted = float(F.cross_entropy(logits_of(plain_of(one), images), labels))
    assert found.losses[1] == pytest.approx(wanted, rel=1e-9)
    assert len(set(found.losses)) == 3
