"""Looking after a home: what is garbage, what is invalid, and which code runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import qsweep as api
from qsweep.sweeps import processes
from qsweep.sweeps.code import DIRTY
from tests.conftest import QSWEEP, Qsweep, environment
from tests.frozen import change_code

pytestmark = pytest.mark.slow

EXITS = "qsweep/workers/agent/exits.py"

SWEEP = ("launch", "digits-grid", "--name", "mine", "--workers", "1", "--set", "epochs=1", "--limit", "4")


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which the sweep is done, for all tests of this file."""
    folder = tmp_path_factory.mktemp("care") / "home"
    processes.run([*QSWEEP, *SWEEP], env=environment(folder), capture_output=True, check=True, timeout=600)
    return folder


@pytest.fixture
def done(launched: Path, home: Path) -> None:
    """The sweep is done in the test's own home."""
    shutil.copytree(launched, home)


def files(home: Path) -> set[str]:
    return {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file() and "logs" not in path.parts}


@pytest.mark.usefixtures("done")
def test_garbage_goes_and_nothing_else_does(qsweep: Qsweep, home: Path) -> None:
    kept = files(home)
    job = api.results("digits-grid", home=home).job[0]
    lost = [
        home / "results" / "runs" / "000099-abcdef012345.parquet",
        home / "results" / "runs" / ".000099-abcdef012345.parquet.77.tmp",
        home / "models" / job[:2] / f"{job}-9.pt",
        home / "checkpoints" / job / "9-20.pt",
        home / "checkpoints" / job / f".9-20.pt.{'a' * 32}",
    ]
    for path in lost:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 100)
    usage = {one["name"]: one for one in json.loads(qsweep("du", "--json").stdout)}
    assert (usage["results"]["garbage"], usage["models"]["garbage"], usage["checkpoints"]["garbage"]) == (200, 100, 200)
    assert "5 files, 500 B would be deleted" in qsweep("gc", "--dry-run").stdout
    assert files(home) == kept | {str(path.relative_to(home)) for path in lost}
    assert "5 files, 500 B deleted" in qsweep("gc").stdout
    assert files(home) == kept
    assert qsweep("db", "check").returncode == 0


@pytest.mark.usefixtures("done")
def test_invalid_results_count_no_more_and_are_computed_again(qsweep: Qsweep, home: Path) -> None:
    before = api.results("digits-grid", home=home)
    said = qsweep("invalidate", "digits-grid", "--where", "bits == 2", "--reason", "an example", "--yes").stdout
    assert "1 result invalidated, jobs re-queued" in said
    assert set(api.results("digits-grid", home=home).bits.fillna(32)) == {32, 8, 4}
    assert qsweep("resume", "digits-grid", "--workers", "1").returncode == 0
    after = api.results("digits-grid", home=home)
    assert sorted(after.attempt) == [1, 1, 1, 2]
    assert after.set_index("job").train_loss.sort_index().equals(before.set_index("job").train_loss.sort_index())
    redone = after[after.attempt == 2].job.item()
    shown = json.loads(qsweep("show", redone, "--json").stdout)
    assert [one["superseded"] for one in shown["attempts"]] == ["an example", None]


def test_a_cancelled_sweep_leaves_the_jobs_of_another_alone(qsweep: Qsweep, home: Path) -> None:
    first = ("digits-grid", "--set", "epochs=1", "--name", "first", "--limit", "4", "--workers", "1")
    assert qsweep("launch", *first).returncode == 0
    answer = qsweep(
        "launch", "digits-grid", "--set", "epochs=[1, 2]", "--name", "second", "--limit", "4", "--workers", "1"
    )
    assert answer.returncode == 0, answer.stderr
    assert "4 jobs: 2 new, 0 known, 2 shared with other sweeps" in answer.stderr
    assert qsweep("cancel", "digits-grid@first").returncode == 0
    assert (api.results("digits-grid@second", home=home).attempt == 1).all()


@pytest.mark.usefixtures("done")
def test_the_code_is_frozen_at_launch_and_a_launch_with_other_code_asks(qsweep: Qsweep, home: Path) -> None:
    (version,) = (path.name for path in (home / "code").iterdir())
    assert codes(home) == [version] * 4

    other = change_code(home, EXITS, (home / "code" / version / EXITS).read_text() + "# other\n")
    more = (*SWEEP[:-1], "5")
    refused = qsweep(*more)
    assert refused.returncode == 2
    assert f"was launched with code {other}" in refused.stderr
    assert "--code frozen" in refused.stderr
    assert qsweep(*more, "--code", "frozen").returncode == 0
    assert codes(home) == sorted([version] * 4 + [other])
    assert qsweep(*SWEEP[:-1], "6", "--code", "current").returncode == 0
    assert codes(home) == sorted([version] * 5 + [other])


def codes(home: Path) -> list[str]:
    """The versions that computed the results, whether or not their files were committed."""
    return sorted(code.removesuffix(DIRTY) for code in api.results("digits-grid", home=home).code)


@pytest.mark.usefixtures("done")
def test_a_variants_name_belongs_to_its_jobs(qsweep: Qsweep, home: Path) -> None:
    other = qsweep("launch", "digits-grid", "--set", "epochs=2", "--limit", "4", "--name", "mine", "--workers", "1")
    assert other.returncode == 2
    assert "digits-grid@mine names another variant already" in other.stderr
    assert len(api.results("digits-grid", home=home)) == 4
