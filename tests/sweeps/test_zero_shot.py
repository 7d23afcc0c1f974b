"""What `[[zero_shot]]` asks for, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from qsweep.sweeps.errors import InputError
from qsweep.sweeps.files import read_sweep
from qsweep.sweeps.job import Job
from qsweep.sweeps.kinds import FLATNESS, QUANTIZATION, SYNTHESIS, TRAIN
from qsweep.sweeps.spec import Spec, select
from qsweep.sweeps.zero_shot import Genie, Sadag

SWEEP = """
[fixed]
data = "digits"
model = "resnet"
depth = 18
width = 4
bits = 32
optimizer = "sgd"
learning_rate = 0.1
weight_decay = 0.0
epochs = 2
batch_size = 64
[axes]
seed = [0, 1]
"""
GENIE = '[[zero_shot]]\nimages = "genie"\n'


def spec_of(folder: Path, text: str, *changes: str) -> Spec:
    (folder / "made.toml").write_text(text)
    return read_sweep(str(folder / "made.toml"), changes)


def test_each_training_has_its_syntheses_after_all_trainings(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, SWEEP + GENIE + 'image_count = [128, 256]\nrates = ["code", "paper"]\n')
    jobs = spec.jobs()
    assert [one.kind for one in jobs] == [TRAIN] * 2 + [SYNTHESIS] * 8
    assert [one.parent for one in jobs[2:]] == [jobs[0].identity] * 4 + [jobs[1].identity] * 4
    assert len({one.identity for one in jobs}) == 10
    assert jobs[3].measure == Genie(image_count=128, rates="paper")
    assert jobs[3].settings()["images"] == "genie"
    assert Spec.from_json(spec.to_json(), place="the registry").jobs() == jobs
    assert [Job.from_json(one.to_json()) for one in jobs] == jobs
    assert select(jobs, where="image_count == 256 and seed == 1 and rates == 'code'") == [jobs[1], jobs[8]]


def test_a_sweep_without_zero_shot_is_stored_as_before(tmp_path: Path) -> None:
    assert "zero_shot" not in spec_of(tmp_path, SWEEP).to_json()


def test_one_synthesis_is_one_job_however_often_it_is_asked_for(tmp_path: Path) -> None:
    assert len(spec_of(tmp_path, SWEEP + GENIE + GENIE + "image_count = [1024, 128]\n").jobs()) == 6


def test_images_that_know_of_no_bits_are_made_once_for_all_bits(tmp_path: Path) -> None:
    entry = '[[zero_shot]]\nimages = ["genie", "sadag"]\nweight_bits = [2, 4]\nactivation_bits = 4\n'
    jobs = spec_of(tmp_path, SWEEP + entry, "seed=0").jobs()
    assert [one.measure for one in jobs[1:]] == [
        Genie(),
        Sadag(weight_bits=2, activation_bits=4),
        Sadag(weight_bits=4, activation_bits=4),
    ]
    assert jobs[2].measure.operations(jobs[0].training) == pytest.approx(  # type: ignore[union-attr]
        1.6 * jobs[1].measure.operations(jobs[0].training)  # type: ignore[union-attr]
    )
    assert [Job.from_json(one.to_json()) for one in jobs] == jobs


def test_quantizations_stand_on_their_images_and_images_serve_all_bits(tmp_path: Path) -> None:
    entry = (
        '[[zero_shot]]\nimages = ["genie", "sadag", "noise", "train"]\nrounding = ["nearest", "reconstruction"]\n'
        "weight_bits = [2, 4]\nactivation_bits = 4\nunit_seed = [0, 1]\n"
    )
    spec = spec_of(tmp_path, SWEEP + entry, "seed=0")
    jobs = spec.jobs()
    kinds = [one.kind for one in jobs]
    assert [kinds.count(one) for one in (TRAIN, SYNTHESIS, QUANTIZATION)] == [1, 5, 24]
    by_identity = {one.identity: one for one in jobs}
    for job in jobs.of(QUANTIZATION):
        above = by_identity[str(job.parent)]
        assert job.above == (above.measure,)
        assert job.settings() == {**above.settings(), **job.settings()}
        if isinstance(above.measure, Sadag):
            assert above.measure.weight_bits == job.measure.weight_bits  # type: ignore[union-attr]
    assert [Job.from_json(one.to_json()) for one in jobs] == jobs
    assert Spec.from_json(spec.to_json(), place="the registry").jobs() == jobs
    chosen = select(jobs, where="images == 'noise' and rounding == 'nearest' and weight_bits == 2")
    assert [one.kind for one in chosen] == [TRAIN, SYNTHESIS, QUANTIZATION]


BOTH = '[[zero_shot]]\nimages = "noise"\nrounding = "nearest"\nweight_bits = [2, 4]\nactivation_bits = 4\n'
MEASURE = '[[measures]]\nmeasure = "pac_bayes"\nperturb = ["latent", "quantized"]\n'


@pytest.mark.parametrize(("of", "trained", "quantized"), [
    (None, 1, 0), (["trainings"], 1, 0), (["quantizations"], 0, 2), (["quantizations", "trainings"], 1, 2)
])  # fmt: skip
def test_measures_are_of_the_models_that_are_named(
    tmp_path: Path, of: list[str] | None, trained: int, quantized: int
) -> None:
    text = ("" if of is None else f"measures_of = {of}\n") + SWEEP + BOTH + MEASURE
    spec = spec_of(tmp_path, text, "seed=0")
    jobs = spec.jobs()
    assert (len(spec.measured(TRAIN)), len(spec.measured(QUANTIZATION))) == (trained, quantized)
    found = jobs.of(FLATNESS)  # of float models latent and quantized weights are the same, and of quantized ones too
    assert [one.of_quantized for one in found] == [False] * trained + [True] * quantized
    assert [one.measure.perturb for one in found] == ["latent"] * trained + ["quantized"] * quantized  # type: ignore[union-attr]
    assert [one.parent for one in found[trained:]] == [one.identity for one in jobs.of(QUANTIZATION)][:quantized]
    children = [spec.child(one, spec.declared_measures()[0]) for one in spec.measured(QUANTIZATION)]
    assert [one.identity for one in children] == [one.identity for one in found[trained:]]
    assert [Job.from_json(one.to_json()) for one in jobs] == jobs
    assert Spec.from_json(spec.to_json(), place="the registry").jobs() == jobs
    chosen = select(jobs, where="weight_bits == 4 and measure == 'pac_bayes'") if quantized else []
    assert len(chosen) == (4 if quantized else 0)


@pytest.mark.parametrize(
    ("of", "more", "problem"),
    [
        ('["quantised"]', BOTH + MEASURE, "'quantised' is not allowed; did you mean 'quantizations'"),
        ("[]", BOTH + MEASURE, "measures_of: nothing is named; allowed: trainings, quantizations"),
        ('["quantizations", "quantizations"]', BOTH + MEASURE, "measures_of: something stands twice"),
        ('["quantizations"]', BOTH, "measures_of: there are no measures"),
        ('["quantizations"]', GENIE + MEASURE, "measures_of: no model is quantized on images; allowed with a rounding"),
        ('"quantizations"', BOTH + MEASURE, "measures_of"),
    ],
)
def test_models_that_there_are_not_can_not_be_measured(tmp_path: Path, of: str, more: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        spec_of(tmp_path, f"measures_of = {of}\n" + SWEEP + more).jobs()


def test_a_setting_is_changed_where_it_is_used(tmp_path: Path) -> None:
    text = SWEEP + '[[measures]]\nmeasure = "pac_bayes"\n' + GENIE
    jobs = spec_of(tmp_path, text, "image_iterations=[10, 20]", "swing=false", "seed=0", "iterations=3").jobs()
    assert [one.kind.name for one in jobs] == ["train", "synthesize", "synthesize", "measure"]
    assert jobs[1].measure == Genie(image_iterations=10, swing=False)
    (quantized,) = spec_of(tmp_path, SWEEP, "bits=4", "activation_bits=4", "seed=0").jobs()  # a training's own
    assert quantized.settings()["activation_bits"] == 4
    with pytest.raises(InputError, match="no entry of zero_shot of made is changed by image_count"):
        spec_of(tmp_path, SWEEP, "image_count=128")


def test_the_rates_have_two_names() -> None:
    code, paper = Genie(), Genie(rates="paper")
    assert (code.embedding_rate, code.generator_rate) == (0.1, 0.01)
    assert (paper.embedding_rate, paper.generator_rate) == (0.01, 0.1)


@pytest.mark.parametrize(
    ("text", "changes", "problem"),
    [
        (GENIE, ("bits=4",), "made.toml.*zero_shot: bits: images are synthesized from a full-precision model"),
        (GENIE, ("bits=[32, 4]",), "this training's is quantized; allowed with zero_shot: 32"),
        (
            GENIE,
            ("image_count=1000",),
            "1000 images can't be made in batches of 128; allowed: multiples of image_batch",
        ),
        (GENIE, ("image_batch=1",), "image_batch: 1 is not allowed; allowed: 2 or more"),
        (GENIE, ("images=real",), "images: 'real' is not known"),
        (GENIE, ("rates=both",), "allowed: code, paper"),
        (GENIE, ("model=vit", "patch=2", "depth=2", "heads=2"), "has no batch norm, whose statistics the images are"),
        (GENIE, ("images=sadag",), "zero_shot 1: weight_bits is missing"),
        (GENIE, ("images=sadag", "weight_bits=1"), "weight_bits: 1 is not allowed; allowed: 2, 3, 4"),
        (
            GENIE,
            ("images=sadag", "weight_bits=2", "activation_bits=2", "model=nin", "depth=1"),
            "the last layer of NiN",
        ),
        ("[[zero_shot]]\nimage_count = 128\n", (), "images is missing"),
        (GENIE + "weight_bits = 4\n", (), "zero_shot 1: 'weight_bits' is not a setting of genie"),
        (GENIE + 'rounding = "adaround"\n', (), "rounding: 'adaround' is not known"),
        (GENIE + 'rounding = "nearest"\n', (), "zero_shot 1: weight_bits is missing"),
        (GENIE + 'rounding = "nearest"\nweight_bits = 1\n', (), "weight_bits: 1 is not allowed; allowed: 2, 3, 4"),
        (GENIE + "unit_iterations = 10\n", (), "'unit_iterations' is not a setting of genie"),
        (
            GENIE,
            ("images=train", "image_count=5000"),
            "image_count: 5000 is not allowed; allowed with images = 'train': up",
        ),
        (
            GENIE + 'rounding = "nearest"\nweight_bits = 2\nactivation_bits = 2\ntrain_samples = 5000\n',
            (),
            r"zero_shot: train_samples: 5000 is not allowed; allowed: 0 \(all\), or 10 to 1442 images",
        ),
        (GENIE + "image_count = []\n", (), "an axis needs at least one value"),
        ("[zero_shot]\nimages = 'genie'\n", (), "zero_shot"),
    ],
)
def test_what_can_not_be_synthesized_is_refused(
    tmp_path: Path, text: str, changes: tuple[str, ...], problem: str
) -> None:
    with pytest.raises(InputError, match=problem):
        spec_of(tmp_path, SWEEP + text, *changes).jobs()


def test_models_that_are_not_kept_have_no_syntheses(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="zero_shot takes the trained models, and these are not kept"):
        spec_of(tmp_path, 'keep = "none"\n' + SWEEP + GENIE).jobs()


@pytest.mark.parametrize("size", [30, 33])
def test_the_side_of_an_image_has_to_be_divisible_by_four(tmp_path: Path, size: int) -> None:
    text = SWEEP.replace('data = "digits"', FOLDER.format(size=size))
    with pytest.raises(InputError, match=f"image_size: images of {size} pixels a side can't be synthesized"):
        spec_of(tmp_path, text + GENIE).jobs()


FOLDER = """data = "imagefolder"
data_folder = "tiny"
image_size = {size}
data_classes = 10
data_train = 100
data_test = 20
data_fingerprint = "0123456789abcdef0123456789abcdef"
augment = "resized-crop\""""
