"""A kept model as a plain module computes what the engine's evaluation found of it, in every family of networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import qsweep as api
from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.results import ResultStore
from qsweep.sweeps.components import PARTS
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.job import Job
from qsweep.sweeps.kinds import FLATNESS
from qsweep.sweeps.measures import PacBayes
from qsweep.sweeps.modules import Module
from qsweep.sweeps.training import Training
from qsweep.workers.cohort import Cohort
from qsweep.workers.data import Images, Part, source_of
from qsweep.workers.deployed import DeployedNetwork, deployed
from qsweep.workers.forms import Form
from tests.workers.test_agent import SETTINGS, agent, register
from tests.workers.test_independence import CPU, finish
from tests.workers.trainings import on, training


@pytest.mark.slow
@pytest.mark.parametrize("bits", [32, 4])
@pytest.mark.parametrize("model", sorted(set(PARTS["model"].components) - {Module.name}))
def test_loss_and_accuracy_are_those_that_were_recorded(few: Images, model: str, bits: int) -> None:
    (one,) = on(few, [training(model=model, bits=bits, learning_rate=0.01, batch_size=64, epochs=1, milestones=[])])
    cohort = Cohort([one], few, slots=1, form=Form.LOOP, device=CPU)
    (result,) = finish(cohort)
    network = deployed(one, result.model)
    source = source_of(few, one.recipe, CPU, torch.float32)
    loss, hits, count = 0.0, 0, 0
    with torch.no_grad():
        for images, labels in source.passes(Part.TEST, 256):
            logits = network(images)
            loss += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
            hits += int((logits.argmax(1) == labels).sum())
            count += len(labels)
    assert hits / count == pytest.approx(result.run["test_accuracy"], abs=1.01 / count)
    assert loss / count == pytest.approx(result.run["test_loss"], rel=1e-4)


def test_a_model_is_loaded_by_its_job(tmp_path: Path) -> None:
    home = Home.at(tmp_path / "home")
    home.prepare()
    job = Job(training=Training.from_settings(SETTINGS))
    child = Job(training=job.training, kind=FLATNESS, parent=job.identity, measure=PacBayes(copies=2))
    with Registry.open(home.registry, create=True) as registry:
        sweep = register(registry, job, child)
        with pytest.raises(InputError, match="it is queued"):
            api.load_model(job.identity, home=home.root)
        worker = agent(home, registry)
        head = registry.queue.next_cohort(worker.place.agent)
        assert head is not None
        worker._work(registry.queue.claim(worker.place.agent, head, 1), worker._plan(head))
        (run,) = ResultStore(home.store).read("runs", registry.catalogue.committed(sweep)).to_pylist()
    model = api.load_model(job.identity[:12], home=home.root)
    assert isinstance(model, DeployedNetwork)
    assert not model.training
    conv = model.layers[0].conv
    assert isinstance(conv, torch.nn.Conv2d)
    assert len(conv.weight.unique()) <= 2**8  # the first layer at its outer width or less
    assert run["test_loss"] is not None
    with pytest.raises(InputError, match="makes no model"):
        api.load_model(child.identity, home=home.root)
