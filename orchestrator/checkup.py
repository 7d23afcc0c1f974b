"""The examination of a machine and a home by `qsweep doctor`."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from db.home import Home
from db.registry import Registry
from orchestrator.lost_jobs import lost_words
from orchestrator.machine import probe
from reports.sheet import Sheet, headings
from sweeps.code import code_version
from sweeps.datasets import DATASETS, ImageFolder
from sweeps.errors import QsweepError
from sweeps.words import counted


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One finding. What is not `needed` may be absent."""

    part: str
    ok: bool
    text: str
    needed: bool = True


def examine(home: Home) -> list[Finding]:
    """Every finding, in the order of a launch. Changes nothing."""
    findings = [Finding(part="qsweep", ok=True, text=code_version())]
    findings.append(_machine(home))
    findings.append(_home(home))
    findings.append(_registry(home))
    findings += [_data(home, name) for name in DATASETS if name != ImageFolder.name]
    return findings


def finding_sheet(findings: Sequence[Finding]) -> Sheet:
    """The findings as a table."""
    marks = {(True, True): "ok", (True, False): "ok", (False, True): "FAIL", (False, False): "–"}
    return Sheet(
        headings=headings("", "part", "finding"),
        rows=tuple((marks[one.ok, one.needed], one.part, one.text) for one in findings),
    )


def _machine(home: Home) -> Finding:
    try:
        machine = probe(home, [], download=False)
    except QsweepError as error:
        return Finding(part="machine", ok=False, text=str(error))
    text = "{}, {}: {}; torch {}".format(
        counted(machine.gpus, "GPU"), counted(machine.cores, "core"), counted(machine.agents, "agent"), machine.torch
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
            count, lost = len(registry.sweeps()), lost_words(registry)
    except QsweepError as error:
        return Finding(part="registry", ok=False, text=str(error))
    return Finding(part="registry", ok=not lost, text="; ".join([counted(count, "sweep"), *lost]), needed=False)


def _data(home: Home, name: str) -> Finding:
    needed = DATASETS[name].folder is None
    try:
        probe(home, [name], download=False)
    except QsweepError as error:
        return Finding(part=name, ok=False, text=str(error), needed=needed)
    return Finding(part=name, ok=True, text="found, fingerprint verified", needed=needed)
