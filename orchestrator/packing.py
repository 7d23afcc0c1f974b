"""Packing jobs for a machine that reaches no registry."""

from __future__ import annotations

import os
import shutil
import socket
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from db.bundles import BACKEND
from db.clock import process_started
from db.home import Home
from db.registry import Registry
from db.rows import AgentInfo, Claim, Sweep
from db.states import State
from orchestrator.freezing import Code, choose_code
from orchestrator.kept_models import check_models
from orchestrator.machine import KeptWeights, probe
from orchestrator.registration import find_launched, register
from orchestrator.selection import Selection
from sweeps import processes
from sweeps.code import code_version, freeze
from sweeps.datasets import DATASETS, DataSet, ImageFolder
from sweeps.errors import InputError, QsweepError
from sweeps.job import Kind
from workers.bundle.manifest import FILE, Manifest
from workers.bundle.parcel import write_zip

START = '''"""Works off this bundle: `python BUNDLE`; `--help` says how."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "code"))

from workers.bundle.command import main

if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
    sys.argv.insert(1, str(Path(__file__).parent))
sys.exit(main())
'''


@dataclass(frozen=True, kw_only=True)
class Packed:
    """What was packed: where it lies, the number of its holder, and how many jobs and bytes it has."""

    place: Path
    holder: int
    title: str
    jobs: int
    size: int
    lacks: tuple[str, ...]
    """Data sets that the far machine must have."""
    left: int = 0
    """Chosen jobs that stayed here: done, running, or away already."""


def pack(
    home: Home,
    selection: Selection,
    out: Path,
    *,
    with_data: bool,
    code: Code | None,
    weights: Sequence[Path] = (),
) -> Packed:
    """Register what is missing of the selection, and pack its waiting jobs as `out`, a folder or a .zip file.

    `weights` are files, or folders of them, that trainings may start from: the home keeps what is needed, and a copy
    goes along. Raises InputError, with nothing held, if that can't be done.
    """
    out = out.expanduser().absolute()
    _check_place(out)
    home.check()
    known, _ = find_launched(home, selection)
    check_models(home, selection)
    version = choose_code(known, code)
    if version != code_version() and not (home.code / version / "workers" / "__main__.py").is_file():
        raise InputError(f"the code {version} can't run a bundle", place="--code", allowed="pack with --code current")
    found = _find_weights(home, selection, known, weights)
    registry, sweep, _ = register(home, selection, code=version)
    with registry:
        for one in found:
            one.keep()
        if version == code_version():
            freeze(home.code)
        registry.reactivate(sweep.id)
        wanted = {job.identity for job in selection.chosen}
        rows = [row for row in registry.jobs(sweep.id) if row.identity in wanted]
        token = uuid.uuid4().hex
        holder, claims = registry.pack(
            out.name, _info(token, version), [row.id for row in rows if row.state is State.QUEUED]
        )
        try:
            if not claims:
                raise InputError(
                    f"none of the {len(rows)} jobs waits: they are done, failed, running, or away already",
                    place=sweep.title,
                )
            packed = _write(home, registry, sweep, claims, out, token=token, holder=holder, with_data=with_data)
        except BaseException:
            registry.recall(holder)
            raise
    return replace(packed, left=len(rows) - len(claims))


def _find_weights(
    home: Home, selection: Selection, known: Sweep | None, given: Sequence[Path]
) -> tuple[KeptWeights, ...]:
    """The weights that the trainings start from which are not done. Raises InputError if there are none for one."""
    done: set[str] = set()
    if known is not None and (registry := Registry.open_if_present(home.registry)) is not None:
        with registry:
            done = {row.identity for row in registry.jobs(known.id, state=State.DONE)}
    starting = [
        job
        for job in selection.chosen
        if job.kind is Kind.TRAIN and job.training.starts_from_weights and job.identity not in done
    ]
    if not starting and not given:
        return ()
    return probe(home, jobs=starting, weights=given, reads_data=False).weights


def _check_place(out: Path) -> None:
    if out.exists():
        raise InputError("this exists already", place=f"--out {out}", allowed="name a new folder or .zip file")
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise InputError("this folder can't be written", place=f"--out {out}", allowed="name another place")


def _info(token: str, code: str) -> AgentInfo:
    pid = os.getpid()
    return AgentInfo(
        host=socket.gethostname(), pid=pid, process_started=process_started(pid), boot_id=token, backend=BACKEND,
        device="", build="", code=code, log=f"logs/agents/bundle-{token[:12]}.log",
    )  # fmt: skip


def _write(
    home: Home,
    registry: Registry,
    sweep: Sweep,
    claims: Sequence[Claim],
    out: Path,
    *,
    token: str,
    holder: int,
    with_data: bool,
) -> Packed:
    """Everything into a folder beside `out`, which then becomes it."""
    manifest = Manifest(
        token=token,
        name=out.name,
        title=sweep.title,
        holder=holder,
        code=sweep.code,
        packed_at=time.time(),
        claims=tuple(claims),
        calibrations=tuple(registry.calibrations_of({claim.job.shape for claim in claims})),
    )
    folder = out.with_name(f".{out.name}.{token}")
    try:
        folder.mkdir()
        (folder / FILE).write_text(manifest.to_json() + "\n", encoding="utf-8")
        (folder / "__main__.py").write_text(START, encoding="utf-8")
        bytecode = shutil.ignore_patterns("__pycache__")  # of this Python, and not what the version names
        shutil.copytree(home.code / sweep.code, folder / "code", ignore=bytecode)
        lacks = _put_data(home, manifest, folder, with_data=with_data)
        _put_models(home, claims, folder)
        _put_weights(home, claims, folder)
        if out.suffix == ".zip":
            write_zip(folder, sorted(path for path in folder.rglob("*") if path.is_file()), out)
        else:
            folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    files = [out] if out.is_file() else [path for path in out.rglob("*") if path.is_file()]
    return Packed(
        place=out,
        holder=holder,
        title=sweep.title,
        jobs=len(claims),
        size=sum(path.stat().st_size for path in files),
        lacks=lacks,
    )


def _put_data(home: Home, manifest: Manifest, folder: Path, *, with_data: bool) -> tuple[str, ...]:
    """Data sets as archives: those that come with a package always, the others if asked; returns which lack."""
    names = manifest.datasets()
    taken = [name for name in names if DATASETS[name].folder is None or (with_data and not DATASETS[name].streamed)]
    if taken:
        command = [*processes.PYTHON, "workers.data.archive", "--folder", str(home.data)]
        command += ["--out", str(folder / "data"), "--download", *taken]
        answer = processes.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONSAFEPATH": "1"}
        )
        if answer.returncode == InputError.exit_code:
            raise InputError(answer.stderr.strip())
        if answer.returncode:
            raise QsweepError(f"the data could not be packed:\n{answer.stderr.strip()[-2000:]}")
    return tuple(sorted({_needed(data) for data in manifest.data() if data.name not in taken}))


def _needed(data: DataSet) -> str:
    """What a person calls a data set that the far machine must have: a set of their own by its folder."""
    return str(data.folder) if data.name == ImageFolder.name else data.name


def _put_weights(home: Home, claims: Sequence[Claim], folder: Path) -> None:
    """The weights that trainings start from."""
    trainings = [claim.job.training for claim in claims if claim.job.kind is Kind.TRAIN]
    for name in sorted({one.weights_file for one in trainings if one.starts_from_weights}):
        source, target = home.weights / name, folder / home.weights.name / name
        if not source.is_file():
            raise InputError(
                "this home has not the weights that trainings start from",
                place=str(source),
                allowed="pack again, with --weights FILE",
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def _put_models(home: Home, claims: Sequence[Claim], folder: Path) -> None:
    """The models of parents that are done here, for the measures that left."""
    coming = {claim.job.identity for claim in claims}
    parents = {claim.parent.identity: claim.parent for claim in claims if claim.parent is not None}
    for identity, parent in parents.items():
        if identity in coming or parent.model_file is None:
            continue
        source, target = home.models / parent.model_file, folder / "models" / parent.model_file
        if not source.is_file():
            raise InputError(f"the model of job {identity[:12]} is gone", place=str(source))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
