"""Transformers compute what timm's and torchvision's own modules compute, alone or side by side."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor

from qsweep.sweeps.datasets import DATASETS
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.measures import PacBayes, Sharpness, asked_of
from qsweep.sweeps.training import Training
from qsweep.sweeps.transformers import Swin, Vit
from qsweep.workers import checkpoints, engine, weights
from qsweep.workers.cohort import Cohort
from qsweep.workers.data import Images
from qsweep.workers.data.batches import Batches
from qsweep.workers.data.source import epoch_generator
from qsweep.workers.forms import Form, default_form, forms_of
from qsweep.workers.measures import measure_models
from qsweep.workers.models import NETWORKS
from qsweep.workers.models.forming import arithmetic_of
from qsweep.workers.models.layout import TRAINED
from qsweep.workers.models.stacked import kept_branches
from qsweep.workers.models.swin import apart, tokens_of, windows_of
from qsweep.workers.models.transformer import Transformer
from qsweep.workers.transformer_names import unwrapped
from tests.workers.test_independence import assert_same_bits, finish
from tests.workers.trainings import on, training

CPU = torch.device("cpu")
DEIT_T = Vit(patch=16, width=192, depth=12, heads=3)
SWIN_T = Swin(patch=4, width=96, depths=(2, 2, 6, 2), heads=3, window_size=7)
NAMES = ("vit", "swin")


def timm_vit(**settings: Any) -> torch.nn.Module:
    """timm's module; the test is skipped where timm is missing."""
    models = pytest.importorskip("timm.models", reason="timm, the oracle of the ViT, is not installed")
    found: torch.nn.Module = models.VisionTransformer(**settings)
    return found


def shaken(net: torch.nn.Module) -> torch.nn.Module:
    """Every tensor drawn anew, so that no two could be exchanged unseen."""
    draw = torch.Generator().manual_seed(1)
    for name, value in net.named_parameters():
        is_gain = ("norm" in name and name.endswith("weight")) or name.endswith("features.0.2.weight")
        deviation = 1.0 if "table" in name else value[0].numel() ** -0.5 if value.dim() > 1 else 0.2
        torch.nn.init.normal_(value, float(is_gain), deviation, generator=draw)
    return net.double().eval()


def small(name: str, **settings: Any) -> Training:
    return training(model=name, **{"drop_path": 0.0, "learning_rate": 0.05, "weight_decay": 1e-2, **settings})


def oracle(one: Training) -> torch.nn.Module:
    """The same network of plain modules."""
    model, data = one.model, one.data
    if isinstance(model, Vit):
        return timm_vit(
            img_size=data.size, patch_size=model.patch, in_chans=data.channels, num_classes=data.classes,
            embed_dim=model.width, depth=model.depth, num_heads=model.heads,
        )  # fmt: skip
    assert isinstance(model, Swin)
    net = torchvision.models.SwinTransformer(
        patch_size=[model.patch] * 2, embed_dim=model.width, depths=list(model.depths),
        num_heads=[model.heads, 2 * model.heads], window_size=[model.window_size] * 2, stochastic_depth_prob=0.0,
        num_classes=data.classes,
    )  # fmt: skip
    net.features[0][0] = torch.nn.Conv2d(data.channels, model.width, model.patch, model.patch)
    return net


def decay_groups(net: torch.nn.Module, decay: float) -> list[dict[str, Any]]:
    """Weight decay on tensors of two and more dimensions, as timm's factory of optimizers groups them."""
    matrices = [value for value in net.parameters() if value.dim() > 1]
    others = [value for value in net.parameters() if value.dim() <= 1]
    return [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


def network_of(one: Training) -> Transformer:
    found: Transformer = NETWORKS[one.model.name](one.model, one.data)
    return found


def rows_of(net: torch.nn.Module, one: Training) -> tuple[Transformer, Tensor]:
    """The engine's network, and its row (1, P) with the module's tensors, in double precision."""
    network, content = network_of(one), unwrapped(net.state_dict())
    layout = network.layout
    assert weights.misfit(content, one.model, layout) is None
    names = weights.tensor_names(content, one.model, layout)
    row = torch.zeros(layout.parameters_length, dtype=torch.float64)
    for name, place in layout.named(row, torch.zeros(layout.statistics_length)):
        if not name.endswith(".step"):
            place.copy_(content[names[name]].reshape(place.shape))
    return network, row[None]


def of_imagenet(model: Vit | Swin) -> Training:
    return dataclasses.replace(small("vit"), model=model, data=DATASETS["imagenet"])


@pytest.mark.parametrize(
    ("model", "weights_of", "parameters"), [(DEIT_T, 5_647_872, 5_717_416), (SWIN_T, 28_199_424, 28_288_354)]
)
def test_the_published_networks_have_their_numbers_of_weights(
    model: Vit | Swin, weights_of: int, parameters: int
) -> None:
    layout = network_of(of_imagenet(model)).layout
    named = layout.named(torch.zeros(layout.parameters_length), torch.zeros(layout.statistics_length))
    assert layout.omega == layout.weights == weights_of
    assert sum(layer.weights for layer in model.layers(DATASETS["imagenet"])) == weights_of
    assert sum(tensor.numel() for name, tensor in named if not name.endswith(".step")) == parameters
    square = float(layout.initial_parameters(0)[:weights_of].square().sum())
    expected = sum(layer.initial_square for layer in model.layers(DATASETS["imagenet"]))
    assert square == pytest.approx(expected, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("model", [DEIT_T, SWIN_T], ids=lambda model: model.title)
def test_the_published_networks_compute_what_timms_and_torchvisions_do(model: Vit | Swin) -> None:
    one = of_imagenet(model)
    net = shaken(oracle(one) if isinstance(model, Vit) else torchvision.models.swin_t())
    network, rows = rows_of(net, one)
    pictures = torch.randn(2, 3, 224, 224, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = network.evaluate(pictures, network.views(network.layout.tensors(rows, rows, rows[:, :0])))[0].mT
        wanted = net(pictures)
    assert float((wanted[0] - wanted[1]).abs().max()) > 0.1, "the logits say nothing about the images"
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12 * float(wanted.abs().max()))


@pytest.mark.parametrize("name", NAMES)
def test_a_cohort_trains_as_plain_modules_do(name: str, few: Images) -> None:
    settings = [("sgd", 0.05, 0), ("adamw", 0.01, 1), ("sgd", 0.02, 2)]
    trainings = on(few, [
        small(name, optimizer=optimizer, learning_rate=rate, seed=seed, batch_size=50, decays="matrices")
        for optimizer, rate, seed in settings
    ])  # fmt: skip
    nets = [shaken(oracle(one)) for one in trainings]
    cohort = Cohort(trainings, few, slots=4, form=Form.GROUPED, device=CPU, dtype=torch.float64)
    for member, net in enumerate(nets):
        state = cohort.state(member)
        row = rows_of(net, trainings[member])[1][0]
        state["parameters"].copy_(row)
        cohort.restore(member, state)
    source = Batches(few, trainings[0].recipe, CPU, torch.float64)
    optimizers = [
        torch.optim.SGD(net.parameters(), one.optimizer.learning_rate, momentum=0.9, weight_decay=1e-2)
        if one.optimizer.name == "sgd"
        else torch.optim.AdamW(decay_groups(net, 1e-2), one.optimizer.learning_rate)
        for one, net in zip(trainings, nets, strict=True)
    ]
    source.open(0)
    for number in range(6):
        cohort.step()
        images, targets = source.batch(number)
        for net, optimizer in zip(nets, optimizers, strict=True):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(images), targets.labels).backward()
            optimizer.step()
    for member, (net, one) in enumerate(zip(nets, trainings, strict=True)):
        wanted = rows_of(net, one)[1][0]
        found = cohort.state(member)["parameters"]
        weighty = network_of(one).layout.steps.start
        torch.testing.assert_close(found[:weighty], wanted[:weighty], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_branches_are_left_out_image_by_image(name: str, few: Images) -> None:
    """The training pass with draws against the plain modules, whose branches are multiplied by hand."""
    one = dataclasses.replace(small(name, drop_path=0.5), data=few.data)
    net = shaken(oracle(small(name)))
    network, rows = rows_of(net, one)
    images = torch.randn(5, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    draws = torch.rand(network.draws, 5, generator=torch.Generator().manual_seed(1))
    arithmetic = arithmetic_of(Form.GROUPED, "fp32", torch.float64, CPU, slots=1)
    views = network.views(network.layout.tensors(rows, rows, rows[:, :0]))
    found, _ = network.train(images, views, arithmetic, draws)
    rates = list(network._rates)
    kept = [torch.ones(5).double() if one is None else one for one in kept_branches(draws, rates, images)]
    blocks = [module for module in net.modules() if type(module).__name__ in ("Block", "SwinTransformerBlock")]
    assert len(kept) == 2 * len(blocks)
    assert any((one == 0).any() for one in kept)
    for number, block in enumerate(blocks):
        for part, which in ((block.attn, 0), (block.mlp, 1)):
            part.register_forward_hook(
                lambda module, given, output, scale=kept[2 * number + which]: (
                    output * scale.view(-1, *[1] * (output.dim() - 1))
                )
            )
    torch.testing.assert_close(found[0].mT, net(images), rtol=0, atol=1e-12)
    torch.testing.assert_close(network.evaluate(images, views), network.train(images, views, arithmetic)[0])


def test_what_is_left_out_follows_from_counters(few: Images) -> None:
    one = on(few, [small("vit", drop_path=0.5, batch_size=50)])[0]
    cohort = Cohort([one], few, slots=1, form=Form.GROUPED, device=CPU)
    for _ in range(3):
        cohort.step()
    wanted = torch.rand(4, 50, generator=epoch_generator(one.recipe.data_seed, 0, "draws/2"))
    assert torch.equal(cohort._engine._draws, wanted)
    kept = [row for row in kept_branches(torch.rand(4, 20_000), [0.0, 0.0, 0.5, 0.5], wanted) if row is not None]
    assert len(kept) == 2
    assert [float(row.mean()) for row in kept] == pytest.approx([1.0, 1.0], abs=0.04)


@pytest.mark.parametrize("name", NAMES)
def test_neighbours_slots_and_interruptions_change_no_bit(name: str, few: Images, tmp_path: Path) -> None:
    trainings = on(few, [
        small(name, bits=bits, optimizer=optimizer, seed=seed, batch_size=97, drop_path=0.3, epochs=1, milestones=[],
              learning_rate=0.01)
        for seed, (bits, optimizer) in enumerate([(32, "sgd"), (4, "adam"), (2, "sgd"), (8, "rmsprop"), (4, "sgd")])
    ])  # fmt: skip

    def cohort(some: list[Training]) -> Cohort:
        return Cohort(some, few, slots=5, form=Form.GROUPED, device=CPU)

    together = finish(cohort(trainings))
    for member, result in enumerate(finish(cohort(trainings[::-1]))[::-1]):
        assert_same_bits(result, together[member])
    begun = cohort(trainings[1:3])
    for _ in range(2):
        begun.step()
    digest = checkpoints.save(tmp_path / "one.pt", begun.state(0))
    resumed = cohort(trainings[1:2])
    resumed.restore(0, checkpoints.load(tmp_path / "one.pt", digest))
    assert_same_bits(finish(resumed)[0], together[1])


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_in_parts_has_the_same_sums(name: str, few: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    trainings = on(few, [small(name, bits=bits, drop_path=0.3, batch_size=50, learning_rate=0.01) for bits in (32, 4)])
    found = []
    for part in (50, 17):
        monkeypatch.setattr(engine, "SAVED", part * 2 * 8 * network_of(trainings[0]).saved)
        cohort = Cohort(trainings, few, slots=2, form=Form.GROUPED, device=CPU, dtype=torch.float64)
        assert cohort._engine._part == part
        for _ in range(3):
            cohort.step()
        found.append([cohort.state(member) for member in range(2)])
    for whole, parts in zip(*found, strict=True):
        assert torch.equal(whole["hits"], parts["hits"])
        for row in ("parameters", "losses"):
            torch.testing.assert_close(whole[row], parts[row], rtol=0, atol=1e-10)


def test_windows_and_their_reverse_are_inverse() -> None:
    tokens = torch.arange(2 * 3 * 64 * 5).view(2, 3 * 64, 5)
    for shift in (0, 2):
        assert torch.equal(tokens_of(windows_of(tokens, 8, 4, shift), 8, 4, shift), tokens)


def test_no_attention_crosses_the_border_of_the_image() -> None:
    """Tokens that the cyclic shift alone brought together: their distance in the image is more than a window."""
    side, window, shift = 8, 4, 2
    places = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), -1).view(1, -1, 2)
    cut = windows_of(places, side, window, shift)[0].view(-1, window**2, 2)
    far = ((cut[:, :, None] - cut[:, None, :]).abs() >= window).any(-1)
    mask = apart(side, window, shift)
    assert torch.equal(mask != 0, far)
    scores = torch.randn(mask.shape, dtype=torch.float32) + mask
    assert float(scores.softmax(-1)[far].max()) < 1e-30


@pytest.mark.parametrize("name", NAMES)
def test_a_file_fits_whole_or_is_refused(name: str, tmp_path: Path) -> None:
    one = small(name, weights="mine")
    content = dict(shaken(oracle(one)).float().state_dict())
    path = tmp_path / "weights.pth"

    def read(given: dict[str, Any]) -> weights.Start:
        torch.save(given, path)
        return weights.read_start(one, path)

    plain, wrapped = read(content), read({"model": content, "epoch": 3})
    assert torch.equal(plain.parameters, wrapped.parameters)
    assert torch.equal(read({f"module.{key}": one for key, one in content.items()}).parameters, plain.parameters)
    fused = next(key for key in content if key.endswith("qkv.weight"))
    layout = network_of(one).layout
    for number, part in enumerate(("query", "key", "value")):
        span = next(spec.name for spec in layout.of_role(*TRAINED) if spec.name.endswith(f"{part}.weight"))
        assert torch.equal(layout[span].of(plain.parameters[None])[0], content[fused].chunk(3)[number])
    without = {key: one for key, one in content.items() if key != fused}
    with pytest.raises(InputError, match=r"has no .*attn\.q\.weight"):
        read(without)
    with pytest.raises(InputError, match=r"the network has no blocks\.9"):
        read(content | {"blocks.9.more": torch.zeros(3)})
    with pytest.raises(InputError, match="of shape"):
        read(content | {"head.weight": torch.zeros(7, 8)})
    torch.save(dict(layout.named(plain.parameters, plain.statistics)), path)
    assert torch.equal(weights.read_start(one, path).parameters, plain.parameters)


def test_swins_authors_names_are_known() -> None:
    one = small("swin")
    layout = network_of(one).layout
    names = weights.tensor_names({"patch_embed.proj.weight": 0, "layers.0": 0}, one.model, layout)
    assert names["patch.norm.bias"] == "patch_embed.norm.bias"
    assert names["stage2.merge.weight"] == "layers.0.downsample.reduction.weight"
    assert names["stage2.merge.norm.weight"] == "layers.0.downsample.norm.weight"
    assert names["stage2.0.query.bias"] == "layers.1.blocks.0.attn.q.bias"
    assert names["stage1.0.table"] == "layers.0.blocks.0.attn.relative_position_bias_table"
    assert names["stage1.0.fc2.weight"] == "layers.0.blocks.0.mlp.fc2.weight"


@pytest.mark.parametrize(
    ("name", "settings", "problem"),
    [
        ("vit", {"patch": 3}, "patches of 3 pixels don't divide images of 8"),
        ("vit", {"heads": 3}, "3 heads don't divide a width of 8"),
        ("vit", {"drop_path": 1.0}, "1.0 is not allowed"),
        ("swin", {"patch": 3}, "patches of 3 pixels don't divide images of 8"),
        ("swin", {"window_size": 3}, "windows of 3 don't divide 8 tokens a side"),
        ("swin", {"depths": [1, 1, 1], "window_size": 4}, "windows of 4 don't divide 8 tokens a side in 3 stages"),
        ("swin", {"depths": []}, r"\[\] is not allowed"),
        ("swin", {"heads": 5}, "5 heads don't divide a width of 8"),
        ("vit", {"weights": "imagenet"}, "torchvision has no such weights"),
    ],
)
def test_what_does_not_divide_is_refused(name: str, settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        small(name, **settings)


def test_they_have_one_form_and_share_torchvisions_weights_name() -> None:
    one = small("vit")
    for device in ("cpu", "cuda"):
        assert forms_of("fp32", device, one.model) == (Form.GROUPED,)
        assert default_form(one, device)[1] is Form.GROUPED
    assert SWIN_T.published == "swin_t"
    assert (DEIT_T.title, SWIN_T.title, DEIT_T.shape, SWIN_T.shape) == ("DeiT-T", "Swin-T", "", "")


@pytest.mark.parametrize("name", NAMES)
def test_bf16_takes_the_products_alone(name: str, few: Images) -> None:
    (one,) = on(few, [small(name, precision="bf16", batch_size=50, learning_rate=0.01)])
    losses = []
    for precision in ("fp32", "bf16"):
        recipe = dataclasses.replace(one.recipe, precision=precision)
        cohort = Cohort([dataclasses.replace(one, recipe=recipe)], few, slots=1, form=Form.GROUPED, device=CPU)
        for _ in range(3):
            cohort.step()
        losses.append(float(cohort.state(0)["losses"][0]))
        assert cohort.state(0)["parameters"].dtype is torch.float32
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_measures_fold_nothing_and_perturb_layer_norms(name: str, few: Images) -> None:
    trainings = on(few, [small(name, bits=bits, batch_size=50, epochs=1, milestones=[]) for bits in (32, 4)])
    results = finish(Cohort(trainings, few, slots=2, form=Form.GROUPED, device=CPU))
    models = [result.model for result in results]
    for convention in ("reference", "all", "none"):
        asked = PacBayes(fold_bn=convention, perturb_folded="none")
        assert [asked_of(asked, one) for one in trainings] == [asked_of(PacBayes(), one) for one in trainings]
    for measure in (
        PacBayes(iterations=2, copies=2),
        PacBayes(iterations=2, copies=2, scaling="magnitude"),
        Sharpness(iterations=1, copies=2, ascent_steps=2, ascent_batch=30, ascent_rate=0.05),
    ):
        asked = [asked_of(measure, one) for one in trainings]
        for member, one in enumerate(trainings):
            (row,) = measure_models([one], [models[member]], asked[member], few, device=CPU)
            assert row["clean_accuracy"] == pytest.approx(results[member].run["train_accuracy"])
            assert row["weight_norm"] == pytest.approx(results[member].run["weight_norm"], rel=1e-6)
