"""The plan of a selection on this machine, from what its home has seen so far."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.rows import Calibration
from qsweep.orchestrator.basis import Basis
from qsweep.orchestrator.layout import duration
from qsweep.orchestrator.machine import Machine
from qsweep.orchestrator.options import size_text
from qsweep.orchestrator.planner import CohortPlan, Plan, make_plan
from qsweep.orchestrator.selection import Selection
from qsweep.reports.sheet import Heading, Sheet
from qsweep.sweeps.grid import identities_of, only
from qsweep.sweeps.job import Job
from qsweep.sweeps.words import counted


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """The plan of what is still to do, and what a user should know before launching it."""

    plan: Plan
    done: int
    notes: tuple[str, ...]
    device: str

    def summary(self) -> Iterator[str]:
        """Disk and time, in words."""
        plan = self.plan
        yield f"disk    about {size_text(plan.disk)} for results and kept models"
        if not plan.cohorts:
            yield "time    none: every job is done"
            return
        surety = ", ".join(_basis_text(basis, share) for basis, share in plan.basis.items())
        yield f"time    about {duration(plan.seconds)} on {counted(plan.workers, 'agent')} ({self.device}; {surety})"
        yield f"idle    {plan.idle:.0%} of the agents' time, waiting for the last cohort"


def _basis_text(basis: str, share: float) -> str:
    """What an estimate rests on."""
    if basis != Basis.GUESS:
        return f"{share:.0%} of the work {basis}"
    rough = "rough estimate" if share == 1 else f"{share:.0%} of the work a rough estimate"
    return f"{rough}: nothing measured here yet, run qsweep calibrate"


def cohort_sheet(cohorts: Sequence[CohortPlan]) -> Sheet:
    """The cohorts of a plan. On a narrow terminal the form of the convolutions is left out first, then the memory."""
    spare = {"form": 3, "memory": 2, "slots": 1}
    numeric = ("jobs", "slots", "cohorts", "memory", "each")
    names = ("cohorts of", *numeric, "form", "time")
    return Sheet(
        headings=tuple(
            Heading(name=name, numeric=name in numeric, copied=name == names[0], spare=spare.get(name, 0))
            for name in names
        ),
        rows=tuple(
            (
                one.key,
                f"{one.jobs}",
                f"{one.slots}",
                f"{one.cohorts}",
                f"{one.memory / 1e9:.1f} GB",
                duration(one.seconds),
                one.form,
                one.basis.value,
            )
            for one in cohorts
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Known:
    """What the registry knows of jobs, in whatever sweep: the done ones, and the most slots of some."""

    done: Set[str] = frozenset()
    limits: Mapping[str, int] = field(default_factory=dict)

    def left(self, jobs: Sequence[Job]) -> Sequence[Job]:
        """Those of these jobs that are not done."""
        left = [place for place, identity in enumerate(identities_of(jobs)) if identity not in self.done]
        return jobs if len(left) == len(jobs) else only(jobs, left)


def known_jobs(home: Home) -> Known:
    """What the registry knows of jobs."""
    registry = Registry.open_if_present(home.registry)
    if registry is None:
        return Known()
    with registry:
        return Known(done=registry.catalogue.done(), limits=registry.catalogue.slots_limits())


def nothing_ahead(selection: Selection) -> Outlook:
    """The plan where every chosen job is done, on whatever machine."""
    plan = Plan(cohorts=(), workers=0, disk=0.0, seconds=0.0, idle=0.0, basis={})
    return Outlook(plan=plan, done=len(selection.chosen), notes=(), device="")


def look_ahead(home: Home, selection: Selection, machine: Machine, workers: int | None, known: Known) -> Outlook:
    """Plan what is not done yet of the selection. Changes nothing."""
    from qsweep.orchestrator.estimates import Speeds  # here: where all is done, nobody looks at results
    from qsweep.reports.speeds import ran_cohorts

    registry = Registry.open_if_present(home.registry)

    def recorded(shape: str) -> Calibration | None:
        if registry is None:
            return None
        return registry.calibrations.find(shape=shape, device=machine.device, build=machine.torch)

    left = known.left(selection.chosen)
    try:
        plan = make_plan(
            left,
            workers=workers or machine.agents,
            device=machine.device,
            keep=selection.spec.keep,
            speeds=Speeds(ran_cohorts(home), machine.device),
            recorded=recorded,
            limits=known.limits,
        )
    finally:
        if registry is not None:
            registry.close()
    notes = (*_notes(home, plan, machine), *precision_notes(left, machine.device))
    return Outlook(plan=plan, done=len(selection.chosen) - len(left), notes=notes, device=machine.device)


TF32_SPEED: dict[str, float] = {}
"""How many times as fast a CIFAR-10 NiN of the paper trains in tf32 as in fp32, by class of device, as
`benchmarks/results` has it. Empty until a GPU has been measured."""
TF32_GUESS = "1.5 to 3 times as fast, by a guess"


def precision_notes(jobs: Iterable[Job], device: str) -> Iterator[str]:
    """What single precision costs on a GPU: PyTorch's default there is another one, and was the paper's."""
    if not device.startswith("cuda"):
        return
    if any(job.kind.is_calibrated and job.training.recipe.precision == "fp32" for job in jobs):
        known = TF32_SPEED.get(device)
        speed = TF32_GUESS if known is None else f"{known:.1f} times as fast here"
        yield (
            f"this is fp32; tf32 computes convolutions as the paper's A100 did by PyTorch's default, {speed}: "
            "--set precision=tf32 (another sweep; GPUs from the A100 on)"
        )


def _notes(home: Home, plan: Plan, machine: Machine) -> Iterator[str]:
    """What may not fit."""
    agents = 1 if machine.gpus else plan.workers
    if machine.memory and plan.memory * agents > machine.memory:
        yield (
            f"{agents} agents of up to {size_text(plan.memory)} may not fit into {size_text(machine.memory)}: a cohort "
            f"that runs out of memory is halved; fewer --workers help"
        )
    folder = next(one for one in (home.root, *home.root.parents) if one.exists())
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    if plan.disk > free:
        yield f"{size_text(plan.disk)} are needed and {size_text(free)} are free in {folder}"
