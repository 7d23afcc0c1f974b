"""Slurm's own commands, as a user would call them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

from qsweep.sweeps.errors import InputError, QsweepError

TIMEOUT = 60.0


class SlurmUnavailable(QsweepError):
    """Slurm does not answer; it may later."""


def check_present() -> None:
    """Raises InputError if this machine has no Slurm, or its controller does not answer."""
    if shutil.which("sbatch") is None:
        raise InputError(
            "there is no Slurm on this machine: sbatch is not found",
            place="--backend slurm",
            allowed="launch on a machine from which jobs are submitted, or leave --backend out",
        )
    if elsewhere := next((name for name in ("SLURM_CLUSTERS", "SBATCH_CLUSTERS") if os.environ.get(name)), None):
        raise InputError(
            "agents are submitted, followed and cancelled on the cluster of this machine alone",
            place=elsewhere,
            allowed="unset it, and launch on a machine of the other cluster",
        )
    answer = run("scontrol", "ping")
    if answer.returncode:
        raise InputError(f"Slurm's controller does not answer: {complaint(answer)}", place="--backend slurm")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """One command of Slurm's, its answer in plain C. Raises SlurmUnavailable if it hangs or is not there."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SQUEUE_", "SINFO_"))}
    try:
        return subprocess.run(
            command,
            env=environment | {"LC_ALL": "C", "SLURM_TIME_FORMAT": "standard"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    except FileNotFoundError:
        raise SlurmUnavailable(f"{command[0]} is not found on this machine") from None
    except subprocess.TimeoutExpired:
        raise SlurmUnavailable(f"{command[0]} did not answer within {TIMEOUT:g} s") from None


def ask(*command: str) -> str:
    """What a command prints. Raises SlurmUnavailable if it fails."""
    answer = run(*command)
    if answer.returncode:
        raise SlurmUnavailable(f"{command[0]} failed: {complaint(answer)}")
    return answer.stdout


def complaint(answer: subprocess.CompletedProcess[str]) -> str:
    """What went wrong, in Slurm's words, on one line."""
    lines = [re.sub(r"^\w+: (error: |fatal: )?", "", line) for line in answer.stderr.splitlines() if line.strip()]
    return "; ".join(lines) or f"exit code {answer.returncode}"


def largest_array() -> int:
    """How many elements an array may have on this cluster."""
    return array_limit(ask("scontrol", "show", "config"))


def array_limit(configuration: str) -> int:
    """How many elements an array may have, of what `scontrol show config` prints.

    MaxArraySize is one more than the largest index; max_array_tasks among the SchedulerParameters may be less.
    """
    found = [
        re.search(rf"^{key}(\d+)\s*(?:,|$)", configuration, re.MULTILINE)
        for key in (r"MaxArraySize\s*=\s*", r"SchedulerParameters\s*=.*\bmax_array_tasks=")
    ]
    return max(min((int(one[1]) for one in found if one), default=1), 1)


def seconds(text: str) -> float | None:
    """A duration as Slurm prints it, `[days-][hours:]minutes:seconds`; None for one without an end."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text.strip())
    if not found:
        return None
    days, hours, minutes, rest = (int(one or 0) for one in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + rest)
