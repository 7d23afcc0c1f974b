"""The command line explains itself."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import typer.main

from qsweep.orchestrator.cli import app
from tests.conftest import Qsweep

COMMANDS = [
    "sweeps",
    "plan",
    "calibrate",
    "images",
    "launch",
    "resume",
    "worker",
    "tune",
    "status",
    "jobs",
    "show",
    "logs",
    "retry",
    "cancel",
    "invalidate",
    "delete",
    "figures",
    "analyze",
    "du",
    "gc",
    "tables",
    "doctor",
    "ui",
    "db",
    "query",
    "init",
    "compact",
    "export",
    "pack",
    "import",
    "recall",
    "report",
    "landscape",
    "corruptions",
]


def leaves() -> list[tuple[str, ...]]:
    group = typer.main.get_command(app)
    found: list[tuple[str, ...]] = []
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        found += [(name, sub) for sub in inner] if inner else [(name,)]
    return found


def test_every_command_of_the_design_is_there() -> None:
    assert {path[0] for path in leaves()} == set(COMMANDS)


@pytest.mark.parametrize("path", leaves(), ids=" ".join)
def test_the_help_of_every_command_has_an_example_of_that_command(path: tuple[str, ...]) -> None:
    command = typer.main.get_command(app)
    for name in path:
        command = command.commands[name]  # type: ignore[attr-defined]
    assert command.help
    assert (command.epilog or "").startswith(f"Example: qsweep {' '.join(path)}")


def test_the_command_line_never_imports_torch() -> None:
    modules = ("orchestrator.cli", "orchestrator.launcher", "orchestrator.planner", "orchestrator.supervisor")
    named = ", ".join(f"qsweep.{module}" for module in (*modules, "reports.answers"))
    code = f"import sys, {named}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_sweeps_lists_the_builtin_ones_and_shows_one(here: Qsweep) -> None:
    listed = json.loads(here("sweeps", "--json").stdout)
    assert {(one["name"], one["jobs"]) for one in listed} == {
        ("cifar10-grid", 972),
        ("cifar100-grid", 972),
        ("digits-grid", 972),
        ("cifar10-flatness", 256),
        ("cifar100-flatness", 256),
        ("digits-flatness", 52),
        ("cifar100-distortion", 912),
        ("digits-distortion", 912),
        ("digits-sam", 44),
        ("digits-transformers", 72),
        ("digits-saq", 474),
        ("flat-or-sharp", 2220),
        ("saq-cifar100", 80),
        ("saq-cifar100-float", 2),
        ("saq-imagenet", 12),
        ("digits-zeroshot", 35),
        ("zeroshot-cifar100", 160),
        ("zeroshot-imagenet", 930),
        ("zeroshot-images", 73),
        ("zeroshot-factors", 55),
        ("imagenet-resnets", 128),
        ("imagenet-transformers", 102),
        ("imagenet-distortion", 912),
    }
    assert "[axes.learning_rate]" in here("sweeps", "cifar10-grid").stdout


@pytest.mark.slow
def test_plan_shows_cohorts_memory_disk_and_time_and_starts_nothing(qsweep: Qsweep) -> None:
    answer = qsweep("plan", "cifar10-grid", "--where", "bits == 2", "--json")
    plan = json.loads(answer.stdout)
    assert plan["jobs"] == 243
    assert sum(cohort["jobs"] for cohort in plan["cohorts"]) == 243
    assert all(cohort["memory"] > 0 for cohort in plan["cohorts"])
    assert plan["disk"] > 0
    assert plan["seconds"] > 0
    assert plan["basis"] == {"rough estimate": 1.0}


def test_plan_tells_of_a_milestone_that_is_never_reached(qsweep: Qsweep) -> None:
    text = qsweep("plan", "cifar10-grid", "--set", "epochs=150").stdout
    assert "milestone 200 lies beyond the last epoch (150) and has no effect" in text
    assert "milestone 100 is" not in text
    wave = qsweep("plan", "cifar10-grid", "--set", "epochs=150", "--set", "schedule=cosine").stdout
    assert "milestones have no effect with schedule = cosine" in wave
    assert "milestone 200" not in wave


def test_plan_tells_of_a_radius_that_is_large_beside_the_weights(qsweep: Qsweep) -> None:
    """NiN 3x10 of 20 channels begins with weights of norm √(190/3) = 7.96."""
    text = " ".join(qsweep("plan", "digits-sam", "--set", "rho=[0.15, 0.4]").stdout.split())
    assert "note: rho = 0.4 is 5.0% of the norm" in text
    assert "rho = 0.15" not in text
    full = qsweep("plan", "digits-sam", "--set", "rho=0.4", "--where", "bits == 32")
    assert "note" not in full.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion_is_there(qsweep: Qsweep, shell: str) -> None:
    answer = qsweep("--show-completion", shell)
    if answer.returncode != 0:
        answer = qsweep(environment={"_QSWEEP_COMPLETE": f"source_{shell}"})
    assert "_QSWEEP_COMPLETE" in answer.stdout
