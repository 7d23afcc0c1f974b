"""A bundle as one file, and its results alone as one: what travels, and how it is opened again."""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sweeps.errors import InputError
from sweeps.wholefiles import whole_file
from workers.bundle import manifest
from workers.bundle.desk import LEDGER
from workers.bundle.ledger import Record, read_ledger

CONTENTS = "contents.json"
"""In a parcel of results: whether the models are in it."""


def write_zip(folder: Path, files: Sequence[Path], out: Path) -> None:
    """Write files below `folder` as `out`, whole or not at all."""
    with whole_file(out) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in files:
            archive.write(path, path.relative_to(folder).as_posix())


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
    """Whether the trained models are here: they are, except in a parcel that says otherwise."""
    contents = folder / CONTENTS
    return not contents.exists() or bool(json.loads(contents.read_text(encoding="utf-8"))["models"])


@contextmanager
def opened(path: Path) -> Iterator[Path]:
    """The folder of a bundle or parcel; of a file, one that goes again. Raises InputError if it is not whole."""
    if path.is_dir():
        yield path
        return
    folder = Path(tempfile.mkdtemp(prefix="qsweep-bundle-"))
    try:
        unpack(path, folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def unpack(path: Path, folder: Path) -> None:
    """Unpack a bundle's file into `folder`. Raises InputError if it is missing, truncated or damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
    except FileNotFoundError:
        raise InputError("there is no such bundle", place=str(path)) from None
    except (OSError, zipfile.BadZipFile, EOFError, ValueError) as error:
        raise InputError(
            f"this bundle is truncated or damaged ({error})", place=str(path), allowed="copy it again"
        ) from None
