"""What the engine computed before its core was rebuilt (commit c7c49c9), it still computes, in double precision.

`golden.json` was written by that commit (VGG's part on noise, later): `python -m tests.workers.test_golden` writes what
the present one computes.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from qsweep.sweeps.datasets import DATASETS
from qsweep.sweeps.landscape import Landscape
from qsweep.sweeps.measures import PacBayes, Sharpness
from qsweep.workers.cohort import Cohort
from qsweep.workers.data import Images, load
from qsweep.workers.forms import Form
from qsweep.workers.landscape import Survey
from qsweep.workers.measures import measure_models
from tests.workers.trainings import first, mixture, on, training

FILE = Path(__file__).with_name("golden.json")
CPU = torch.device("cpu")
SEARCH: dict[str, Any] = {"copies": 2, "iterations": 4}
CLIMB: dict[str, Any] = {**SEARCH, "ascent_steps": 2, "ascent_rate": 0.05, "ascent_batch": 50}
MEASURES = [
    PacBayes(**SEARCH),
    PacBayes(**SEARCH, scaling="magnitude", fold_bn="all"),
    PacBayes(**SEARCH, perturb="quantized", noise_std="corrected"),
    Sharpness(**CLIMB),
    Sharpness(**CLIMB, scaling="magnitude", fold_bn="all"),
]


def computed(images: Images) -> dict[str, Any]:
    """Losses of trainings in each of the library's forms and every family of networks, searches, and a landscape."""
    found: dict[str, Any] = {}
    for form in (Form.GATHER, Form.LOOP, Form.GROUPED):
        found[form.value] = _losses(_trained(on(images, mixture(batch_size=104, depth=2)), images, form))
    for model in ("resnet", "mobilenet", "mobilenet-v2", "vgg"):
        both = [training(model=model, bits=bits, batch_size=104, learning_rate=0.01, epochs=1) for bits in (32, 4)]
        pixels = noise(images) if model == "vgg" else images
        found[model] = _losses(_trained(on(images, both), pixels, Form.LOOP))
    some = on(images, [training(depth=2, width=5, bits=bits, batch_size=104, learning_rate=0.05) for bits in (32, 4)])
    models = [result.model for result in _trained(some, images, Form.GATHER)]
    for number, measure in enumerate(MEASURES):
        rows = measure_models(some, models, measure, images, device=CPU, dtype=torch.float64)
        found[f"measure {number}"] = [
            [row["weight_norm"], row["distance"], *(one["displacement"] for one in row["trace"])] for row in rows
        ]
    asked = Landscape(points=3, samples=100)
    survey = Survey(some[1:], models[1:], asked, images, device=CPU, dtype=torch.float64)
    found["landscape"] = list(survey.scores(0, asked.size).losses)
    return found


def noise(images: Images) -> Images:
    """Images without two equal pixels side by side: on a plain ground which of equal maxima VGG's pooling takes is a
    matter of the last bit of a sum, and that of the processor."""
    pixels = torch.randint(0, 256, images.train_images.shape, generator=torch.Generator().manual_seed(0))
    return dataclasses.replace(images, train_images=pixels.to(images.train_images.dtype))


def _trained(trainings: list[Any], images: Images, form: Form) -> list[Any]:
    cohort = Cohort(trainings, images, slots=len(trainings) + 1, form=form, device=CPU, dtype=torch.float64)
    while not cohort.finished:
        cohort.step()
    return cohort.results()


def _losses(results: list[Any]) -> list[list[float]]:
    return [
        [
            *(row["train_loss"] for row in result.epochs),
            *(result.run[name] for name in ("train_loss", "test_loss", "weight_norm", "distance")),
            *(row["step_size"] or 0.0 for row in result.layers),
        ]
        for result in results
    ]


def _flat(value: Any) -> list[float]:
    return [one for part in value for one in _flat(part)] if isinstance(value, list) else [value]


@pytest.mark.slow
def test_what_was_computed_before_is_computed_still(few: Images) -> None:
    golden, found = json.loads(FILE.read_text()), computed(few)
    assert found.keys() == golden.keys()
    for name, values in golden.items():
        assert _flat(found[name]) == pytest.approx(_flat(values), rel=1e-8, abs=1e-10), name


if __name__ == "__main__":
    torch.set_num_threads(1)
    images = first(load(DATASETS["digits"], None, download=False), 312, 90)
    lines = [f"{json.dumps(name)}: {json.dumps(values)}" for name, values in computed(images).items()]
    (Path(sys.argv[1]) if sys.argv[1:] else FILE).write_text("{\n" + ",\n".join(lines) + "\n}\n")
