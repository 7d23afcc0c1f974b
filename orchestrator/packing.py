"""Packing jobs for a machine that reaches no registry."""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from qsweep.db.clock import machine_id, process_started
from qsweep.db.errors import LeaseLost, RegistryFull, RegistryUnavailable
from qsweep.db.garbage import Undeletable, remove
from qsweep.db.home import Home
from qsweep.db.looking import BUNDLE
from qsweep.db.registry import Registry
from qsweep.db.rows import AgentInfo, Claim, Sweep
from qsweep.db.rules import LEASE
from qsweep.db.states import AgentState, State
from qsweep.orchestrator.children import ask
from qsweep.orchestrator.data_folders import keep_arrays
from qsweep.orchestrator.dead_agents import mark_dead_agents
from qsweep.orchestrator.freezing import Code, choose_code, choose_user_code, keep_code
from qsweep.orchestrator.kept_models import check_models
from qsweep.orchestrator.machine import KeptWeights, probe
from qsweep.orchestrator.registration import find_launched, register
from qsweep.orchestrator.selection import Selection
from qsweep.orchestrator.warming import ARCHIVE, warm_up
from qsweep.sweeps.code import PACKAGE, check_snapshot, code_version
from qsweep.sweeps.datasets import DataSet, ImageFolder
from qsweep.sweeps.errors import InputError, QsweepError
from qsweep.sweeps.faults import point
from qsweep.sweeps.job import with_training
from qsweep.sweeps.questions import ArchiveData
from qsweep.sweeps.user_code import digests_of, keep_user_code, kept_user_code
from qsweep.sweeps.wholefiles import LONGEST, rename_new, sync, sync_folder
from qsweep.workers.agent.heartbeat import Heartbeat
from qsweep.workers.bundle.archive import write_zip
from qsweep.workers.bundle.manifest import FILE, Manifest

BEGUN = re.compile(r"\..+\.(?P<token>[0-9a-f]{32})")
"""The name of a folder in which a pack writes, beside what it becomes."""
START = '''"""Works off this bundle: `python BUNDLE`; `--help` says how."""

import os
import sys
from pathlib import Path

sys.dont_write_bytecode = True  # nothing lies in the code but what was packed
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
sys.path.insert(0, str(Path(__file__).parent / "code"))

from qsweep.workers.bundle.command import main

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
    selection = choose_user_code(home, selection, code)
    known, _ = find_launched(home, selection)
    check_models(home, selection)
    if with_data:
        keep_arrays(home, selection.spec, selection.chosen)
    version = choose_code(known, code)
    if version != code_version() and not (home.code / version / PACKAGE / "workers" / "__main__.py").is_file():
        raise InputError(f"the code {version} can't run a bundle", place="--code", allowed="pack with --code current")
    found = _find_weights(home, selection, known, weights)
    registry, sweep, _ = register(home, selection, known, code=version)
    with registry:
        for one in found:
            one.keep()
        keep_code(home, version)
        registry.sweeps.reactivate(sweep.id)
        wanted = {job.identity for job in selection.chosen}
        rows = [row for row in registry.catalogue.jobs(sweep.id) if row.identity in wanted]
        _clear(registry, out.parent)
        token = uuid.uuid4().hex
        waiting = [row.id for row in rows if row.state is State.QUEUED]
        with _held(registry, out, token, version) as holder:
            claims = registry.bundles.pack(holder, out.name, waiting)
            point("pack.claimed", len(claims))
            if not claims:
                raise InputError(
                    f"none of the {len(rows)} jobs waits: they are done, failed, running, or away already",
                    place=sweep.title,
                )
            packed = _write(home, registry, sweep, claims, out, token=token, holder=holder, with_data=with_data)
    return replace(packed, left=len(rows) - len(claims))


@contextmanager
def _held(registry: Registry, out: Path, token: str, code: str) -> Iterator[int]:
    """The holder of a bundle that is being written: an agent with a heartbeat, whose jobs come back if this process
    dies. At the end it leaves; on an error its jobs are queued again."""
    holder = registry.agents.enlist(_info(token, code))
    heartbeat = Heartbeat(registry.queue, holder, lease=LEASE, patience=math.inf)
    heartbeat.start()
    try:
        try:
            yield holder
        finally:
            heartbeat.stop()
        point("pack.renamed", out)
        _send_away(registry, holder, out, token)
    except BaseException:
        with suppress(RegistryUnavailable, RegistryFull):  # then the lease runs out
            registry.bundles.recall(holder)
        raise


def _send_away(registry: Registry, holder: int, out: Path, token: str) -> None:
    try:
        registry.bundles.send_away(holder, out.name, token)
    except LeaseLost:  # this process stood still for longer than a lease, and the jobs went to others
        shutil.rmtree(out) if out.is_dir() else out.unlink()
        raise QsweepError(
            f"{out.name}: its jobs were taken back while it was written, because this process did not beat for a lease "
            f"of {LEASE:g} s; pack again"
        ) from None


def _find_weights(
    home: Home, selection: Selection, known: Sweep | None, given: Sequence[Path]
) -> tuple[KeptWeights, ...]:
    """The weights that the trainings start from which are not done. Raises InputError if there are none for one."""
    done: set[str] = set()
    if known is not None and (registry := Registry.open_if_present(home.registry)) is not None:
        with registry:
            done = {row.identity for row in registry.catalogue.jobs(known.id, state=State.DONE)}
    starting = [
        job
        for job in with_training(selection.chosen)
        if job.parent is None and job.training.with_weights and job.identity not in done
    ]
    if not starting and not given:
        return ()
    warm_up(home, ARCHIVE)  # the data will be asked for, too
    return probe(home, jobs=starting, weights=given, reads_data=False).weights


def _check_place(out: Path) -> None:
    if len(os.fsencode(out.name)) > LONGEST:
        raise InputError("this name is too long", place="--out", allowed=f"at most {LONGEST} bytes")
    if out.exists():
        raise _taken(out)
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise InputError("this folder can't be written", place=f"--out {out}", allowed="name another place")


def _clear(registry: Registry, folder: Path) -> None:
    """Remove what packs into this folder left that were killed: those of this registry whose holder lives no more."""
    mark_dead_agents(registry)
    registry.agents.take_back_expired()
    over = {
        one.log: one.state is not AgentState.ALIVE for one in registry.catalogue.agents(None) if one.backend == BUNDLE
    }
    for path in folder.glob(".*"):
        if (left := BEGUN.fullmatch(path.name)) and over.get(_log(left["token"])):
            with suppress(Undeletable):
                remove(path)


def _log(token: str) -> str:
    return f"logs/agents/bundle-{token[:12]}.log"


def _info(token: str, code: str) -> AgentInfo:
    pid = os.getpid()
    return AgentInfo(
        host=socket.gethostname(), pid=pid, process_started=process_started(pid), boot_id=machine_id(), backend=BUNDLE,
        device="", build="", code=code, log=_log(token), lease=LEASE,
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
        calibrations=tuple(registry.calibrations.of({claim.job.shape for claim in claims})),
    )
    folder = out.with_name(f".{out.name}.{token}")
    try:
        folder.mkdir()
        (folder / FILE).write_text(manifest.to_json() + "\n", encoding="utf-8")
        (folder / "__main__.py").write_text(START, encoding="utf-8")
        bytecode = shutil.ignore_patterns("__pycache__")  # of this Python, and not what the version names
        shutil.copytree(check_snapshot(home.code, sweep.code), folder / "code", ignore=bytecode)
        lacks = _put_data(home, manifest, folder, with_data=with_data)
        _put_models(home, claims, folder)
        _put_weights(home, claims, folder)
        _put_user_code(home, claims, folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        point("pack.written", folder)
        if out.suffix == ".zip":
            write_zip(folder, files, folder / out.name)  # what is half written goes with the folder
            _publish(folder / out.name, out)
        else:
            for path in files:
                sync(path)
            _publish(folder, out)
        sync_folder(out.parent)
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


def _publish(begun: Path, out: Path) -> None:
    """Give what was written its name. Raises InputError if something has that name by now: another pack, say, whose
    jobs would be away for good."""
    try:
        if begun.is_dir():
            begun.rename(out)  # which takes the place of nothing but an empty folder
        else:
            rename_new(begun, out)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise
        raise _taken(out) from None


def _taken(out: Path) -> InputError:
    return InputError("this exists already", place=f"--out {out}", allowed="name a new folder or .zip file")


def _put_data(home: Home, manifest: Manifest, folder: Path, *, with_data: bool) -> tuple[str, ...]:
    """Data sets as archives: those that come with a package always, the others if asked; returns which lack."""
    needed = manifest.data()
    taken = {one for one in needed if one.folder is None or (with_data and not one.streamed)}
    if taken:
        question = ArchiveData(
            data=str(home.data),
            out=str(folder / "data"),
            datasets=sorted(one.name for one in taken if not one.source),
            arrays=sorted(str(one.folder) for one in taken if one.source),
            download=True,
        )
        ask(question, failing="packing the data")
    return tuple(sorted({_needed(data) for data in needed - taken}))


def _needed(data: DataSet) -> str:
    """What a person calls a data set that the far machine must have: a set of their own by its folder."""
    return str(data.folder) if data.source or data.name == ImageFolder.name else data.name


def _put_weights(home: Home, claims: Sequence[Claim], folder: Path) -> None:
    """The weights that trainings start from, and those of their teachers."""
    trainings = [job.training for job in with_training(claim.job for claim in claims) if job.parent is None]
    for name in sorted({one.weights_file for training in trainings for one in training.with_weights}):
        source, target = home.weights / name, folder / home.weights.name / name
        if not source.is_file():
            raise InputError(
                "the pretrained weights are missing in this home",
                place=str(source),
                allowed="pack again, with --weights FILE",
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def _put_user_code(home: Home, claims: Sequence[Claim], folder: Path) -> None:
    """The code of the user that jobs run. Raises InputError if a copy is gone or damaged."""
    for digest in sorted(set[str]().union(*(digests_of(claim.job.settings()) for claim in claims))):
        keep_user_code(folder / home.user_code.name, kept_user_code(home.user_code, digest))


def _put_models(home: Home, claims: Sequence[Claim], folder: Path) -> None:
    """The files that jobs take from others which are done here and don't come along."""
    coming = {claim.job.identity for claim in claims}
    sources = (claim.source(file) for claim in claims for file in claim.job.kind.takes)
    needed = {one.identity: one for one in sources if one is not None and one.identity not in coming}
    for identity, one in needed.items():
        if one.model_file is None:
            continue
        source, target = home.models / one.model_file, folder / "models" / one.model_file
        if not source.is_file():
            raise InputError(f"the model of job {identity[:12]} is gone", place=str(source))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
