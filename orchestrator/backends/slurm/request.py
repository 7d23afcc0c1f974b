"""What a user asks of Slurm: `--slurm key=value`, checked by name here and by Slurm itself before a submission."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from qsweep.orchestrator.backends.slurm import commands
from qsweep.sweeps.errors import InputError, nearest

SBATCH = (
    "account", "constraint", "cpus_per_task", "dependency", "exclude", "exclusive", "gpus_per_task", "gres",
    "licenses", "mail_type", "mail_user", "mem", "mem_per_cpu", "mem_per_gpu", "nice", "nodelist", "partition", "qos",
    "reservation", "time",
)  # fmt: skip
"""Options of sbatch that are handed on as they are."""
OWN = ("array_parallelism", "handover", "setup")
"""How many agents of an array run at once; seconds before the end at which they hand over; a line of shell before."""
COUNTS = ("array_parallelism", "cpus_per_task", "handover")
TAKEN = {
    "clusters": "launch on a machine of that cluster",
    "array": "the number of agents is --workers",
    "nodes": "an agent runs on one node",
    "ntasks": "the number of agents is --workers",
    "ntasks_per_node": "the number of agents is --workers",
    "gpus": "say gres=gpu:1 or gpus_per_task=1",
    "gpus_per_node": "say gres=gpu:1 or gpus_per_task=1",
    "signal": "say handover=SECONDS",
    "signal_delay_s": "say handover=SECONDS",
    "job_name": "it is the sweep's",
    "output": "logs lie in the home, and qsweep logs finds them",
    "error": "logs lie in the home, and qsweep logs finds them",
    "requeue": "agents are always requeued",
}
"""Options of sbatch that qsweep sets itself, and what to do instead."""


def parse_options(texts: list[str]) -> dict[str, str]:
    """The `key=value`s of a command line. Raises InputError."""
    options: dict[str, str] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not value:
            raise InputError(f"{text!r} is not key=value", place="--slurm", allowed="for example partition=gpu")
        options[key.strip().lstrip("-").replace("-", "_")] = value.strip()
    return options


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of every array of a fleet, under sbatch's names with underscores. Raises InputError."""

    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, value in self.options.items():
            if key in TAKEN:
                raise InputError(f"{key} can't be chosen: {TAKEN[key]}", place="--slurm")
            if key not in SBATCH + OWN:
                raise InputError(f"unknown key {key!r}", place="--slurm", allowed=nearest(key, SBATCH + OWN))
            if key in COUNTS and not re.fullmatch(r"[1-9]\d*", value):
                raise InputError(f"{key}={value}", place="--slurm", allowed="a whole number, at least 1")
            if "\n" in value:
                raise InputError(f"{key} has more than one line", place="--slurm")

    @property
    def parameters(self) -> dict[str, str]:
        """What sbatch is told, by its own names. `gpus-per-task` is refused without a number of tasks."""
        return {"ntasks": "1"} | {key.replace("_", "-"): self.options[key] for key in self.options if key in SBATCH}

    @property
    def step(self) -> list[str]:
        """What srun has to be told again: since Slurm 22.05 a step does not inherit its cores from the job."""
        cores = self.options.get("cpus_per_task")
        return [] if cores is None else [f"--cpus-per-task={cores}"]

    @property
    def array_parallelism(self) -> int | None:
        found = self.options.get("array_parallelism")
        return None if found is None else int(found)

    @property
    def handover(self) -> float | None:
        """Seconds before the end of its allocation at which an agent hands over; None: the pilot's choice."""
        found = self.options.get("handover")
        return None if found is None else float(found)

    @property
    def setup(self) -> list[str]:
        return [self.options["setup"]] if "setup" in self.options else []

    def check(self) -> None:
        """Ask Slurm whether it would take such an array. Raises InputError with Slurm's own words."""
        flags = [f"--{key}={value}" for key, value in self.parameters.items()]
        answer = commands.run("sbatch", "--test-only", "--array=0", *flags, "--wrap=true")
        if answer.returncode:
            given = " ".join(f"{key}={value}" for key, value in self.options.items())
            raise InputError(
                f"Slurm refuses this: {commands.complaint(answer)}",
                place=f"--slurm {given}".strip(),
                allowed="`sinfo` and `scontrol show partition` say what there is",
            )

    def hosts(self) -> frozenset[str]:
        """The machines that the agents might run on, by host name."""
        partition = self.options.get("partition") or os.environ.get("SBATCH_PARTITION") or _default_partition()
        chosen = [f"--partition={partition}"] if partition else []
        chosen += [f"--nodes={self.options['nodelist']}"] if "nodelist" in self.options else []
        answer = commands.ask("sinfo", "--noheader", "--Node", *chosen, "--Format=NodeHost:200")
        return frozenset(answer.split())


def _default_partition() -> str:
    names = commands.ask("sinfo", "--noheader", "--format=%P").split()
    return next((name.rstrip("*") for name in names if name.endswith("*")), "")
