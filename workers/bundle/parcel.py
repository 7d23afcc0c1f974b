"""The results of a bundle alone as one file, and how a bundle or a parcel is opened again."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from qsweep.sweeps.errors import InputError
from qsweep.sweeps.strict_json import read_strictly
from qsweep.workers.bundle import manifest
from qsweep.workers.bundle.archive import unpack, write_zip
from qsweep.workers.bundle.ledger import Record, read_ledger
from qsweep.workers.bundle.local_queue import LEDGER
from qsweep.workers.bundle.plain import read_plain

CONTENTS = "contents.json"
"""In a parcel of results: whether the models are in it."""
BROUGHT = (manifest.FILE, LEDGER, CONTENTS, "logs", "results", "models")
"""What an import reads of a bundle's folder."""


def write_results(folder: Path, out: Path, *, models: bool) -> int:
    """Write what `qsweep import` needs of the bundle in `folder` as one file; its size in bytes.

    Code, data and checkpoints stay. Without `models` the trained models stay too, and the jobs count without.
    """
    records = read_ledger(folder / LEDGER, manifest.seed(folder))
    files = [folder / manifest.FILE, folder / LEDGER, *sorted((folder / "logs").glob("*.log"))]
    files += [folder / "results" / kind / f"{name}.parquet" for kind, name in publications(records)]
    files += [folder / "models" / name for name in kept_models(records)] if models else []
    contents = folder / CONTENTS
    contents.write_text(json.dumps({"models": models}) + "\n", encoding="utf-8")
    try:
        write_zip(folder, [contents, *(path for path in files if path.exists())], out)
    finally:
        contents.unlink()
    return out.stat().st_size


def publications(records: Sequence[Record]) -> list[tuple[str, str]]:
    """Kind and name of every file of results that a ledger counts."""
    return [(kind, one["publication"]) for one in records if one["what"] == "finished" for kind in one["files"]]


def kept_models(records: Sequence[Record]) -> list[str]:
    """Every model's file that a ledger counts."""
    jobs = [job for one in records if one["what"] == "finished" for job in one["jobs"]]
    return [job["model"] for job in jobs if job["model"]]


def has_models(folder: Path) -> bool:
    """Whether the trained models are here: they are, except in a parcel that says otherwise. Raises InputError."""
    contents = folder / CONTENTS
    if not contents.exists():
        return True
    try:
        found = read_strictly(read_plain(contents))
        if not isinstance(found, dict) or not isinstance(found.get("models"), bool):
            raise ValueError("models is not true or false")
    except ValueError as error:
        raise InputError(
            f"this file is damaged: {error}", place=str(contents), allowed="copy the bundle again"
        ) from None
    return bool(found["models"])


@contextmanager
def opened(path: Path) -> Iterator[Path]:
    """The folder of a bundle or parcel; of a file, one that goes again. Raises InputError if it is not whole, or what
    an import reads of it is not plain files."""
    if path.is_dir():
        _check_plain(path)
        yield path
        return
    folder = Path(tempfile.mkdtemp(prefix="qsweep-bundle-"))
    try:
        unpack(path, folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_plain(folder: Path) -> None:
    try:
        for name in BROUGHT:
            for path in (folder / name, *(folder / name).rglob("*")):
                if not path.is_symlink() and (path.is_file() or path.is_dir() or not path.exists()):
                    continue
                raise InputError(
                    "this is a link or a device", place=str(path), allowed="a bundle holds plain files and folders"
                )
    except OSError as error:
        raise InputError(f"this folder can't be read: {error.strerror}", place=str(folder)) from None
