"""The examination of a machine and a home by `qsweep doctor`."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.orchestrator.children import ask
from qsweep.orchestrator.lost_jobs import lost_words
from qsweep.reports.sheet import Sheet, headings
from qsweep.sweeps.code import code_version
from qsweep.sweeps.datasets import DATASETS, ImageFolder
from qsweep.sweeps.errors import QsweepError
from qsweep.sweeps.questions import CheckDevice, Probe
from qsweep.sweeps.words import counted

GPU_SECONDS = 60.0
"""How long the check of a GPU takes: what compiles longer at its start is said to be left out."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One finding. What is not `needed` may be absent."""

    part: str
    ok: bool
    text: str
    needed: bool = True


def examine(home: Home) -> list[Finding]:
    """Every finding, in the order of a launch. Changes nothing."""
    named = [name for name in DATASETS if name != ImageFolder.name]
    try:
        found: dict[str, Any] | QsweepError = _probe(home, named)
    except QsweepError as error:
        found = error
    findings = [Finding(part="qsweep", ok=True, text=code_version()), _machine(found), _home(home), _registry(home)]
    return findings + [_data(name, found) for name in named]


def examine_gpus(seconds: float = GPU_SECONDS) -> list[Finding]:
    """What each GPU that is visible here can do, and whether it computes what it should: all at once, in about that
    many seconds."""
    count = len(ask(Probe(data=""), failing="the probe of this machine")["gpus"])
    if not count:
        text = "torch finds none: is there one, does nvidia-smi show it, and is this build of torch for it?"
        return [Finding(part="GPU", ok=False, text=text)]
    with ThreadPoolExecutor(count) as pool:
        return [one for found in pool.map(partial(_examine_gpu, seconds=seconds), range(count)) for one in found]


def _examine_gpu(index: int, seconds: float) -> list[Finding]:
    part = f"GPU {index}"
    try:
        content = ask(CheckDevice(seconds=seconds), failing=f"the check of {part}", gpu=index)
    except QsweepError as error:
        return [Finding(part=part, ok=False, text=str(error))]
    return device_findings(part, content)


def device_findings(part: str, content: Mapping[str, Any]) -> list[Finding]:
    """What `workers.selfcheck` found, in a line for each question; forms that answer alike share it."""
    findings = [Finding(part=part, ok=True, text=f"{content['device']}; precisions {', '.join(content['precisions'])}")]
    checks = content["checks"]
    for what, precision in dict.fromkeys((one["what"], one["precision"]) for one in checks):
        mine = [one for one in checks if (one["what"], one["precision"]) == (what, precision)]
        words = "; ".join(f"{one['form']}: {one['text']}" for one in mine)
        asked = [one["ok"] for one in mine if one["ok"] is not None]
        ok, failed = bool(asked) and all(asked), False in asked
        findings.append(Finding(part=part, ok=ok, text=f"{precision} {what}: {words}", needed=failed))
    return findings


def _probe(home: Home, datasets: Sequence[str]) -> dict[str, Any]:
    """What this machine has, and what is the matter with each data set: one process with torch says it all."""
    return ask(Probe(data=str(home.data), datasets=datasets, apart=True), failing="the probe of this machine")


def finding_sheet(findings: Sequence[Finding]) -> Sheet:
    """The findings as a table."""
    marks = {(True, True): "ok", (True, False): "ok", (False, True): "FAIL", (False, False): "–"}
    return Sheet(
        headings=headings("", "part", "finding"),
        rows=tuple((marks[one.ok, one.needed], one.part, one.text) for one in findings),
    )


def _machine(found: dict[str, Any] | QsweepError) -> Finding:
    if isinstance(found, QsweepError):
        return Finding(part="machine", ok=False, text=str(found))
    gpus, cores = len(found["gpus"]), found["cores"]
    text = "{}, {}: {}; torch {}".format(
        counted(gpus, "GPU"), counted(cores, "core"), counted(gpus or cores, "agent"), found["torch"]
    )
    return Finding(part="machine", ok=True, text=text)


def _home(home: Home) -> Finding:
    try:
        home.check()
    except QsweepError as error:
        return Finding(part="home", ok=False, text=str(error))
    folder = next(one for one in (home.root, *home.root.parents) if one.exists())
    free = shutil.disk_usage(folder).free
    return Finding(part="home", ok=True, text=f"{home.root}, {free / 1e9:.0f} GB free")


def _registry(home: Home) -> Finding:
    try:
        registry = Registry.open_if_present(home.registry)
        if registry is None:
            return Finding(part="registry", ok=True, text="none yet; the first launch makes it")
        with registry:
            count, lost = len(registry.catalogue.sweeps()), lost_words(registry)
    except QsweepError as error:
        return Finding(part="registry", ok=False, text=str(error))
    return Finding(part="registry", ok=not lost, text="; ".join([counted(count, "sweep"), *lost]), needed=False)


def _data(name: str, found: dict[str, Any] | QsweepError) -> Finding:
    needed = DATASETS[name].folder is None
    problem = str(found) if isinstance(found, QsweepError) else found["problems"][name]
    text = problem or "found, fingerprint verified"
    return Finding(part=name, ok=problem is None, text=text, needed=needed)
