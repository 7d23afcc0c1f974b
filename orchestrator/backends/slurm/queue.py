"""What Slurm says about arrays, and the plain words for it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qsweep.orchestrator.backends.slurm import commands

OVER = {
    "BOOT_FAIL": "never started: the node did not boot",
    "CANCELLED": "cancelled (scancel, or a preemption that cancels)",
    "COMPLETED": "",
    "DEADLINE": "ended at a deadline",
    "FAILED": "failed",
    "NODE_FAIL": "lost with the node",
    "OUT_OF_MEMORY": "killed for memory; ask for more with --slurm mem=…",
    "PREEMPTED": "preempted",
    "REVOKED": "taken by another cluster",
    "TIMEOUT": "ended at the time limit before a hand-over; begin it earlier with --slurm handover=SECONDS",
}
"""The states that a job does not leave any more. COMPLETED needs no words."""
WAITING = {
    "None": "just submitted",
    "Resources": "waiting for free nodes",
    "Priority": "waiting behind other jobs",
    "BeginTime": "requeued, starting again in a moment",
    "Cleaning": "requeued, starting again in a moment",
    "Dependency": "waiting for the job that they depend on",
    "DependencyNeverSatisfied": "can never start: the job that they depend on failed",
    "JobArrayTaskLimit": "waiting for others of the array (array_parallelism)",
    "JobHeldUser": "held by you; let them go with: scontrol release {array}",
    "JobHeldAdmin": "held by an administrator",
    "launch failed requeued held": "held: the node could not start them; after mending, scontrol release {array}",
    "job requeued in held state": "held; let them go with: scontrol release {array}",
    "ReqNodeNotAvail": "waiting for nodes that are down, drained or reserved",
    "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions": (
        "waiting for nodes that are down, drained or reserved"
    ),
    "NodeDown": "waiting for a node that is down",
    "PartitionDown": "waiting: the partition is down",
    "PartitionInactive": "waiting: the partition is closed",
    "PartitionNodeLimit": "can never start: over the partition's limit of nodes",
    "PartitionTimeLimit": "can never start: over the partition's time limit",
    "BadConstraints": "can never start: no node satisfies the constraints",
    "Licenses": "waiting for licenses",
    "Reservation": "waiting for the reservation",
}
"""Why a pending job waits, by Slurm's reason."""
OTHERWISE = {
    "CONFIGURING": "waiting for the nodes to boot",
    "STOPPED": "stopped by an administrator",
    "SUSPENDED": "suspended; Slurm goes on with them by itself",
    "SPECIAL_EXIT": "held after a special exit",
}
AT_WORK = ("RUNNING", "COMPLETING")
FORMAT = "%F|%K|%A|%T|%M|%r"


@dataclass(frozen=True, kw_only=True)
class Element:
    """One element of an array, or a job that was submitted alone."""

    array: str
    index: str
    job: str
    state: str
    ran: bool
    """It had a node, at least for a second."""
    reason: str

    @property
    def key(self) -> tuple[str, str]:
        """What stays the same when it is requeued."""
        return self.array, self.index

    @property
    def over(self) -> bool:
        return self.state in OVER

    @property
    def cancelled(self) -> bool:
        return self.state == "CANCELLED"

    @property
    def ending(self) -> bool:
        """It was told to end, or has ended, and its processes are being awaited."""
        return self.state == "COMPLETING"

    @property
    def waiting(self) -> bool:
        """It has no agent: nothing is lost if it is cancelled."""
        return self.state == "PENDING"

    def words(self) -> str:
        """Why no agent works here; '' if there is nothing to say."""
        if self.state in AT_WORK:
            return ""
        if self.state == "CANCELLED" and not self.ran:
            return "cancelled while waiting (scancel, or nothing was left to do)"
        if self.over:
            return OVER[self.state]
        if self.state == "PENDING":
            return _waiting(self.reason).format(array=self.array)
        return OTHERWISE.get(self.state, f"in the state {self.state}")


def _waiting(reason: str) -> str:
    known = WAITING.get(reason) or WAITING.get(reason.partition(",")[0])
    if known:
        return known
    if "Limit" in reason or reason.startswith(("QOS", "Assoc", "MaxCpu", "MaxMem")):
        return f"waiting for a limit of your account ({reason})"
    return f"waiting ({reason})"


def elements(arrays: Sequence[str]) -> list[Element]:
    """The elements of these arrays that Slurm still knows of, ended ones included. Raises SlurmUnavailable."""
    if not arrays:
        return []
    ids = ",".join(arrays)
    answer = commands.run("squeue", "--noheader", "--array", "--states=all", f"--jobs={ids}", f"--format={FORMAT}")
    if answer.returncode and "Invalid job id" in answer.stderr:
        return []  # it has forgotten them all
    if answer.returncode:
        raise commands.SlurmUnavailable(f"squeue failed: {commands.complaint(answer)}")
    rows = (line.strip().split("|", 5) for line in answer.stdout.splitlines() if line.strip())
    found = (
        Element(array=row[0], index=row[1], job=row[2], state=row[3], ran=bool(commands.seconds(row[4])), reason=row[5])
        for row in rows
    )
    return [one for one in found if one.array in arrays]


def describe(found: Iterable[Element], logs: str) -> list[str]:
    """What there is to say about these elements, a line for each array and kind."""
    groups: dict[tuple[str, str], int] = defaultdict(int)
    for element in found:
        if words := element.words():
            groups[element.array, words + (f"; see {logs}" if element.state == "FAILED" else "")] += 1
    return [
        f"Slurm array {array}: {count} agent{'s' if count > 1 else ''} {words}"
        for (array, words), count in groups.items()
    ]
