"""What lies in a home, and in its store of results, that nothing points to any more."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from qsweep.db.belonging import lies_in
from qsweep.db.custody import Holdings
from qsweep.db.home import Home
from qsweep.db.model_names import PATTERN as MODEL
from qsweep.db.publication_names import is_of
from qsweep.db.registry import Registry
from qsweep.db.results import ResultStore, StoredFile, list_files
from qsweep.sweeps.errors import QsweepError

CHECKPOINT = re.compile(r"(?P<attempt>\d+)-\d+\.pt")
PUBLICATION = re.compile(r"(?P<publication>((?P<agent>\d+)|compact)-(?P<digits>[0-9a-f]+))\.parquet")
TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?:[0-9a-f]{32}(?:\.tmp)?|\d+\.tmp)")

GRACE = 3600.0
"""Seconds for which a results file stays after the last pointer left it: longer than any query. As long stays what
somebody began to write, and that no job is known of."""


class Undeletable(QsweepError):
    """A file can't be deleted: names it, and says why."""

    def __init__(self, path: str, error: OSError) -> None:
        super().__init__(f"{path}: can't be deleted: {error.strerror or error}")


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """A file, by the folder of the home (or the store) that it lies in and its path there, and its size in bytes."""

    folder: str
    name: str
    size: int

    @property
    def path(self) -> str:
        return f"{self.folder}/{self.name}" if self.folder else self.name


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What one folder of a home takes, in bytes, and how much of it is garbage."""

    name: str
    files: int
    size: int
    garbage: int


def find_garbage(home: Home, registry: Registry, *, now: float, earlier: bool = False) -> list[Garbage]:
    """Files that no job points to and that nobody may still be writing. `now` in Unix seconds. Changes nothing.

    The files are listed before the registry is asked: what is committed in between counts as pointed to. Results
    that counted once stay for `GRACE` seconds more: a query may have taken its pointers before. Of a registry that was
    moved or copied, only what it has written since, unless `earlier`: the rest may count in the other one.
    """
    files = _Files.of(home)
    return list(_found(files, registry.results.holdings(), now, _Kept.of(home, registry, earlier=earlier)))


def collect_garbage(home: Home, registry: Registry, *, now: float, earlier: bool = False) -> list[Garbage]:
    """Deletes what `find_garbage` finds; what was deleted here. Leases that have run out are taken back before: what
    their agents wrote and did not count is garbage. Raises QsweepError at the end if a file can't be deleted."""
    files = _Files.of(home)
    registry.agents.take_back_expired()
    registry.results.take_back()
    holdings = registry.results.holdings(lapsed=True)
    store = ResultStore(home.store)
    deleted, problems = [], []
    for one in _found(files, holdings, now, _Kept.of(home, registry, earlier=earlier)):
        try:
            deleted += [one] if _delete(home, store, one) else []
        except Undeletable as error:
            problems.append(error)
    there = {_publication(one.name) for one in store.files()}
    registry.results.forget(holdings.left_at.keys() - there)
    if problems:
        raise stuck(problems, f"files that were deleted: {len(deleted)}")
    return deleted


def measure_usage(home: Home, garbage: Sequence[Garbage]) -> list[Usage]:
    """What each folder of the home, and the store of its results, takes."""
    lost = {(one.folder, one.name) for one in garbage}
    listed = {"results": ResultStore(home.store).files()}
    for folder in (home.models, home.weights, home.checkpoints, home.corruptions, home.logs, home.code, home.user_code):
        listed[folder.name] = list_files(folder)
    return [
        Usage(
            name=folder,
            files=len(files),
            size=sum(one.size for one in files),
            garbage=sum(one.size for one in files if (folder, one.name) in lost),
        )
        for folder, files in listed.items()
    ]


@dataclass(frozen=True, kw_only=True)
class _Files:
    results: list[StoredFile]
    models: list[StoredFile]
    checkpoints: list[StoredFile]
    begun: list[Garbage]
    """Of other folders: what somebody began to write, and when."""
    began: dict[str, float]

    @classmethod
    def of(cls, home: Home) -> _Files:
        others = list(_begun(home))
        return cls(
            results=ResultStore(home.store).files(),
            models=list_files(home.models),
            checkpoints=list_files(home.checkpoints),
            begun=[one for one, _ in others],
            began={one.path: at for one, at in others},
        )


def _begun(home: Home) -> Iterator[tuple[Garbage, float]]:
    """Temporary files and folders outside of results, models and checkpoints, and when they were written."""
    for folder in (
        home.root,
        home.weights,
        home.starts,
        home.probes,
        home.code,
        home.user_code,
        home.corruptions,
        *_folders(home.corruptions),
    ):
        for path in _entries(folder):
            if TEMPORARY.fullmatch(path.name):
                try:
                    status = path.stat(follow_symlinks=False)
                except OSError:
                    continue
                size = sum(one.size for one in list_files(path)) if path.is_dir() else status.st_size
                place = path.relative_to(home.root).as_posix()
                yield Garbage(folder="", name=place, size=size), status.st_mtime


def _folders(folder: Path) -> Iterator[Path]:
    return (path for path in _entries(folder) if path.is_dir())


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """What stays although this registry does not need it: another one may, which it was copied from or to."""

    earlier: bool
    """What was written before this incarnation of the registry."""
    shared: bool
    """The home's own files too: the other registry may have them as its own."""

    @classmethod
    def of(cls, home: Home, registry: Registry, *, earlier: bool) -> _Kept:
        return cls(earlier=not earlier, shared=not earlier and not lies_in(registry, home))


def _found(files: _Files, holdings: Holdings, now: float, kept: _Kept) -> Iterator[Garbage]:
    for one in files.results:
        if not (kept.earlier and _is_earlier(one, holdings)) and _is_lost_result(one, holdings, now):
            yield Garbage(folder="results", name=one.name, size=one.size)
    yield from (one for one in files.begun if now - files.began[one.path] > GRACE)
    if holdings.incarnation and kept.shared:
        return
    for one in files.models:
        match = MODEL.fullmatch(_final_name(one.name))
        if match and one.name not in holdings.models and not _is_live(holdings, match["job"], match["attempt"]):
            yield Garbage(folder="models", name=one.name, size=one.size)
    for one in files.checkpoints:
        match, job = CHECKPOINT.fullmatch(_final_name(one.name)), Path(one.name).parent.name
        if match and one.name not in holdings.checkpoints and not _is_live(holdings, job, match["attempt"]):
            yield Garbage(folder="checkpoints", name=one.name, size=one.size)


def _is_earlier(file: StoredFile, holdings: Holdings) -> bool:
    """Whether the registry was moved or copied since this file was begun."""
    match = PUBLICATION.fullmatch(_final_name(file.name))
    return match is not None and bool(holdings.incarnation) and not is_of(match["digits"], holdings.incarnation)


def _is_lost_result(file: StoredFile, holdings: Holdings, now: float) -> bool:
    match = PUBLICATION.fullmatch(_final_name(file.name))
    if not match:
        return False
    publication, agent = match["publication"], match["agent"]
    if publication in holdings.written or (agent is not None and int(agent) in holdings.holders):
        # A holder's own publication that pointers have left is no longer written.
        return (
            publication in holdings.left_at
            and publication not in holdings.pointed
            and _is_over(holdings.left_at[publication], now)
        )
    if TEMPORARY.fullmatch(_last_name(file.name)):
        return True
    if publication in holdings.pointed:
        return False
    if publication in holdings.left_at:
        return _is_over(holdings.left_at[publication], now)
    if publication in holdings.published:  # left before the registry noted when
        return _is_over(file.modified, now)
    return True


def _is_over(since: float, now: float) -> bool:
    return now - since > GRACE


def _delete(home: Home, store: ResultStore, one: Garbage) -> bool:
    """Whether it was still there: an agent, or another collector, may have been faster."""
    if one.folder != "results":
        return remove(home.root / one.folder / one.name)
    try:
        return store.delete(one.name)
    except OSError as error:
        raise Undeletable(f"{store.place}/{one.name}", error) from None


def remove(path: Path) -> bool:
    """Delete a file, or a folder with all that is in it; whether it was there. Raises Undeletable."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise Undeletable(str(error.filename or path), error) from None
    return True


def stuck(problems: Sequence[Undeletable], rest: str) -> QsweepError:
    """All of these as one error, which names the first file and says what became of the `rest`."""
    more = f" (and so for {len(problems) - 1} more)" if len(problems) > 1 else ""
    return QsweepError(f"{problems[0]}{more}; {rest}")


def _publication(name: str) -> str | None:
    match = PUBLICATION.fullmatch(_final_name(name))
    return match["publication"] if match else None


def _final_name(name: str) -> str:
    """The name of the file that a temporary one would have become."""
    last = _last_name(name)
    match = TEMPORARY.fullmatch(last)
    return match["name"] if match else last


def _last_name(name: str) -> str:
    """The name of a listed file without its folders."""
    return name.rpartition("/")[2]


def _is_live(holdings: Holdings, job: str, attempt: str) -> bool:
    return holdings.running.get(job) == int(attempt)
