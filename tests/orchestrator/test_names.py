"""What a bare NAME means to every command, what acts ask and say, and how a deleted sweep goes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

import qsweep as api
from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.rows import Finished, Sweep
from qsweep.db.states import FailureClass
from qsweep.orchestrator import choosing
from qsweep.orchestrator.registration import find_launched, register
from qsweep.orchestrator.selection import read_selection
from qsweep.orchestrator.tuning.run import make_selection
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.tuning import Mode, Tuning
from tests.conftest import Qsweep
from tests.db.conftest import agent_info, claim

read = cache(read_selection)
"""A grid is expanded once, however many tests launch it."""


def launch(home: Path, *changes: str, name: str | None = None, limit: int | None = 4, tuned: bool = False) -> Sweep:
    """What a launch of digits-grid registers, without its agents."""
    place = Home.at(home)
    selection = read("digits-grid", changes=changes, name=name, limit=limit)
    if tuned:
        selection = make_selection(selection, Tuning(metric="train_loss", mode=Mode.MIN), None)
    known, _ = find_launched(place, selection)
    registry, sweep, _ = register(place, selection, known, code="c")
    registry.close()
    return sweep


@pytest.fixture
def registry(home: Path) -> Iterator[Registry]:
    launch(home)
    with Registry.open(Home.at(home).registry) as opened:
        yield opened


def finish(home: Path, registry: Registry) -> None:
    """Every job that waits is done, with a model."""
    agent = registry.enlist(agent_info())
    while claims := claim(registry, agent):
        for one in claims:
            file = f"{one.job.identity[:2]}/{one.job.identity}-{one.attempt}.pt"
            path = Home.at(home).models / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"model")
            done = Finished(job_id=one.job_id, attempt=one.attempt, publication="p", model_file=file, model_hash="h")
            registry.finish(agent, [done])


def test_the_bare_name_stays_the_sweep_as_written_after_a_variant_and_a_tuning(
    home: Path, registry: Registry, here: Qsweep
) -> None:
    written = registry.find_sweep("digits-grid")
    variant, tuned = launch(home, "epochs=2"), launch(home, tuned=True)
    assert tuned.name == "digits-grid+tune"
    assert registry.find_sweep("digits-grid") == registry.find_sweep(written.title)
    assert registry.find_sweep("digits-grid+tune").id == tuned.id
    assert f"4 of 4 jobs of {written.title}" in here("jobs", "digits-grid").stderr
    assert written.title in here("tables", "digits-grid").stdout
    told = here("query", "SELECT sweep, variant FROM sweeps ORDER BY variant", "--format", "csv").stdout.split()[1:]
    assert set(told) == {
        f"digits-grid,{written.title}", f"{variant.title},{variant.title}", f"digits-grid+tune,{tuned.title}",
    }  # fmt: skip
    assert len(api.results("digits-grid", "jobs", home=home)) == 4
    said = here("cancel", "digits-grid")
    # The tuning run holds the same jobs.
    assert said.stdout == f"{written.title}: 0 queued jobs cancelled, 0 running ones asked to stop\n"
    assert registry.counts(variant.id).queued == 4


def test_of_several_variants_none_is_taken_for_the_bare_name(home: Path, here: Qsweep) -> None:
    one = launch(home, "epochs=2")
    assert one.title in here("status", "digits-grid").stdout
    assert here("cancel", "digits-grid").returncode == 0
    two = launch(home, "epochs=3")
    for command in (("jobs",), ("cancel",), ("retry",), ("resume",), ("invalidate", "--reason", "x"), ("delete",)):
        refused = here(command[0], "digits-grid", *command[1:])
        assert refused.returncode == 2, command
        assert one.title in refused.stderr.replace("\n", " ")
        assert two.title in refused.stderr.replace("\n", " ")


def test_an_older_registry_knows_the_built_in_sweep_by_its_jobs(home: Path, registry: Registry) -> None:
    launch(home, "epochs=2")
    registry._database.write(lambda t: t.connection.exec_driver_sql("UPDATE sweeps SET written_at = NULL"))
    label = read_selection("digits-grid").label
    assert registry.find_sweep("digits-grid").label == label


def test_in_a_terminal_it_asks_which_variant_and_whether_it_is_meant(
    home: Path, here: Qsweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = launch(home, "epochs=2"), launch(home, "epochs=3")
    monkeypatch.setattr(choosing, "is_terminal", lambda: True)
    monkeypatch.setattr("typer.prompt", lambda *given, **options: 2)
    monkeypatch.setattr("typer.confirm", lambda *given, **options: False)
    refused = here("cancel", "digits-grid")
    assert refused.returncode == 2
    assert "nothing was changed" in refused.stderr
    assert here("cancel", "digits-grid", "--yes").stdout.startswith(f"{one.title}: 4 queued")


def test_a_launch_that_looked_before_another_one_is_refused_before_its_jobs(home: Path, registry: Registry) -> None:
    place = Home.at(home)
    late = read_selection("digits-grid", changes=["epochs=3"], name="mine", limit=2)
    known, _ = find_launched(place, late)  # there is none yet
    first = launch(home, "epochs=2", name="mine")
    with pytest.raises(InputError, match="names another variant already"):
        register(place, late, known, code="c")
    assert len(registry.jobs(first.id)) == 4


def test_a_sweep_says_how_it_stands(home: Path, registry: Registry, here: Qsweep) -> None:
    assert "active" in here("status").stdout
    finish(home, registry)
    assert "complete so far, 4 of 972 jobs" in here("status").stdout
    whole = launch(home, "width=8", "depth=2", "optimizer=sgd", "learning_rate=0.1", "weight_decay=0", limit=None)
    agent = registry.enlist(agent_info())
    registry.fail(agent, claim(registry, agent, 1)[:1], FailureClass.INPUT, "no")
    finish(home, registry)
    assert "ended, 1 failed" in here("status", whole.title).stdout
    registry.retry(whole.id)
    finish(home, registry)
    assert here("status", whole.title).stdout.splitlines()[1].endswith("complete")
    registry.cancel(launch(home, "epochs=5").id)
    assert "cancelled (" not in here("status").stdout


def test_an_invalidation_names_the_other_sweeps_and_is_refused_where_nobody_can_be_asked(
    home: Path, registry: Registry, here: Qsweep
) -> None:
    other = launch(home, name="other", limit=2)
    finish(home, registry)
    command = ("invalidate", "digits-grid", "--reason", "x")
    refused = here(*command)
    assert refused.returncode == 2
    assert f"other sweeps lose them too: 2 of {other.title}" in refused.stdout
    assert "--yes" in refused.stderr
    assert registry.counts(other.id).done == 2
    assert "4 results invalidated" in here(*command, "--yes").stdout


def test_a_deleted_sweep_takes_along_what_no_other_shares(home: Path, registry: Registry, here: Qsweep) -> None:
    sweep = registry.find_sweep("digits-grid")
    assert "cancel it first" in here("delete", "digits-grid", "--yes").stderr
    other = launch(home, name="other", limit=1)
    finish(home, registry)
    shown = here("delete", "digits-grid", "--dry-run").stdout
    assert "3 jobs go" in shown
    assert "3 trained models" in shown
    assert f"share stay: 1 of {other.title}" in shown
    assert here("delete", sweep.title).returncode == 2
    assert len(registry.sweeps()) == 2
    assert here("delete", sweep.title, "--yes").returncode == 0
    assert [one.title for one in registry.sweeps()] == [other.title]
    assert len(list(Home.at(home).models.rglob("*.pt"))) == 1
    assert sweep.title not in here("status").stdout
    assert registry.counts(launch(home).id).queued == 3  # the name is free, and what went is computed again


def test_a_retry_repeats_trainings_whose_model_files_are_gone(home: Path, here: Qsweep) -> None:
    place = Home.at(home)
    whole = read_selection("digits-flatness")
    measure = next(job for job in whole.jobs if job.parent is not None)
    chosen = tuple(job for job in whole.jobs if job.identity in (measure.parent, measure.identity))
    selection = replace(whole, chosen=chosen)
    registry, sweep, _ = register(place, selection, None, code="c")
    with registry:
        agent = registry.enlist(agent_info())
        (training,) = claim(registry, agent)
        done = Finished(job_id=training.job_id, attempt=training.attempt, publication="p", model_file="gone.pt")
        registry.finish(agent, [done])
        registry.fail(agent, claim(registry, agent), FailureClass.INPUT, "the file is gone")
        said = here("retry", sweep.title).stdout
        assert "1 training whose model is not there is repeated" in said
        assert registry.counts(sweep.id).done == 0
