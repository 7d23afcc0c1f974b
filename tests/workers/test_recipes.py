"""Optimizers, schedules and label smoothing are PyTorch's."""

from __future__ import annotations

import pytest
import torch

from qsweep.sweeps.errors import InputError
from qsweep.sweeps.training import Training
from qsweep.workers.data import Images
from qsweep.workers.evaluation import cross_entropy
from qsweep.workers.forms import Form
from qsweep.workers.optimizers import rate_at
from tests.workers.plain import schedule_of
from tests.workers.test_equivalence import assert_equal_to_plain_models
from tests.workers.trainings import training


def optimizers() -> list[Training]:
    """Nesterov beside plain momentum, AdamW beside Adam, with decays that matter and step sizes with and without."""
    recipe = {"schedule": "cosine", "warmup_epochs": 1, "epochs": 3, "label_smoothing": 0.1, "batch_size": 32}
    return [
        training(optimizer="sgd", nesterov=True, bits=32, weight_decay=0.1, seed=1, **recipe),
        training(optimizer="sgd", nesterov=False, bits=4, weight_decay=0.1, seed=2, **recipe),
        training(optimizer="adamw", bits=32, weight_decay=0.5, learning_rate=0.05, epsilon=0.1, seed=3, **recipe),
        training(
            optimizer="adamw", bits=4, weight_decay=0.9, decay_step=True, learning_rate=0.02, epsilon=0.1, **recipe
        ),
        training(optimizer="adamw", bits=8, weight_decay=0.9, learning_rate=0.02, epsilon=0.1, seed=5, **recipe),
        training(optimizer="adam", bits=8, weight_decay=0.1, learning_rate=0.05, epsilon=0.1, seed=6, **recipe),
        training(optimizer="sgd", nesterov=True, bits=8, momentum=0.5, weight_decay=0.1, seed=7, **recipe),
    ]


@pytest.mark.usefixtures("uncompiled")
def test_nesterov_adamw_and_label_smoothing_are_torchs_side_by_side(few: Images) -> None:
    steps = 3 * -(-few.data.train_images // 32)
    assert_equal_to_plain_models(few, [Form.GATHER, Form.COMPILED_LOOP], optimizers(), steps=steps)


@pytest.mark.parametrize(
    "settings",
    [
        {"milestones": [2, 5], "lr_factor": 0.2},
        {"milestones": [2, 5], "warmup_epochs": 3, "warmup_factor": 0.25},
        {"schedule": "cosine"},
        {"schedule": "cosine", "warmup_epochs": 3},
    ],
)
def test_learning_rates_are_those_of_torchs_schedulers(settings: dict[str, object]) -> None:
    recipe = training(epochs=9, **settings).recipe
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    schedule = schedule_of(recipe, optimizer)
    for epoch in range(recipe.epochs):
        assert rate_at(recipe, 0.4, epoch) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        schedule.step()


def test_label_smoothing_is_torchs() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 7, 5, generator=draw, dtype=torch.float64)
    labels = torch.tensor([0, 6, 2, 2, 1])
    for one, found in zip(logits, cross_entropy(logits, labels, 0.3), strict=True):
        wanted = torch.nn.functional.cross_entropy(one.t(), labels, label_smoothing=0.3, reduction="none")
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-14)


def test_settings_without_effect_are_no_part_of_an_identity() -> None:
    cosine = training(schedule="cosine", milestones=[], epochs=4)
    assert training(schedule="cosine", milestones=[1], lr_factor=0.3, epochs=4).canonical() == cosine.canonical()
    plain = training()
    assert training(warmup_factor=0.5, schedule="steps", label_smoothing=0.0).canonical() == plain.canonical()
    assert training(nesterov=False).canonical() == plain.canonical()
    for other in ({"nesterov": True}, {"label_smoothing": 0.1}, {"warmup_epochs": 1}, {"schedule": "cosine"}):
        assert training(**other).canonical() != plain.canonical()


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({"warmup_epochs": 2, "epochs": 2}, "warmup_epochs"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"schedule": "linear"}, "schedule"),
    ],
)
def test_what_no_schedule_or_optimizer_can_do_is_refused_with_its_place(
    settings: dict[str, object], place: str
) -> None:
    with pytest.raises(InputError) as found:
        training(**settings)
    assert place in str(found.value)
