"""A bundle's file: written whole, and unpacked member by member into a folder that nothing in it can lead out of."""

from __future__ import annotations

import re
import shutil
import stat
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qsweep.sweeps.errors import InputError
from qsweep.sweeps.wholefiles import whole_file

DRIVE = re.compile(r"[A-Za-z]:")
BLOCK = 1 << 20
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ENCRYPTED = 0x1
"""The flag of a member that needs a password."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What an archive may unpack to.

    Thousands of kept models and the images of CIFAR stay far below: they hardly shrink. Lists of jobs do, and fall
    under the slack.
    """

    members: int = 1_000_000
    size: int = 1 << 40
    """Bytes of all members together."""
    ratio: int = 100
    """How many times the archive's own size they may have …"""
    slack: int = 1 << 28
    """… and that many bytes more, whatever the archive's size."""


BOUNDS = Bounds()


def write_zip(folder: Path, files: Sequence[Path], out: Path) -> None:
    """Write files below `folder` as `out`, whole or not at all."""
    with (
        whole_file(out, tidy=True) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        for path in files:
            archive.write(path, path.relative_to(folder).as_posix())


def unpack(path: Path, folder: Path, bounds: Bounds = BOUNDS) -> None:
    """Unpack a bundle's file into `folder`, which may be empty or missing.

    Raises InputError if the file is missing or damaged, holds anything but plain files with names of their own below
    `folder`, or would take more than the bounds or the disk allow.
    """
    if not path.exists():
        raise InputError("there is no such bundle", place=str(path))
    if not path.is_file():
        raise InputError("this is neither a file nor a folder", place=str(path), allowed="name a bundle")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check(members, path, folder, bounds)
            for member in members:
                if not member.is_dir():
                    _write(archive, member, folder / member.filename)
    except InputError:
        raise
    except Exception as error:  # of a damaged archive, zipfile and zlib raise a dozen kinds of error
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
        raise InputError(
            f"this bundle is truncated or damaged, or can't be unpacked ({reason})",
            place=str(path),
            allowed="copy it again",
        ) from None


def _check(members: Sequence[zipfile.ZipInfo], path: Path, folder: Path, bounds: Bounds) -> None:
    """Raise InputError unless the members, as they are announced, may be unpacked."""
    if len(members) > bounds.members:
        raise InputError(f"it has {len(members):,} files", place=str(path), allowed=f"at most {bounds.members:,}")
    size, room = sum(member.file_size for member in members), shutil.disk_usage(folder).free
    most = min(bounds.size, bounds.ratio * path.stat().st_size + bounds.slack)
    if size > most:
        raise InputError(
            f"it would unpack to {size:,} bytes, out of all proportion to its own", place=str(path),
            allowed=f"at most {most:,}",
        )  # fmt: skip
    if size > room:
        raise InputError(
            f"it would unpack to {size:,} bytes, and {folder} has room for {room:,}", place=str(path),
            allowed="make room, or name another place with TMPDIR",
        )  # fmt: skip
    seen: set[str] = set()
    for member in members:
        if (problem := _problem(member)) is not None or member.filename in seen:
            raise InputError(
                f"its member {member.filename[:200]!r} {problem or 'stands there twice'}", place=str(path),
                allowed="a bundle holds plain files in folders of its own, each once",
            )  # fmt: skip
        seen.add(member.filename)


def _problem(member: zipfile.ZipInfo) -> str | None:
    """What keeps a member from being unpacked."""
    name, kind = member.filename, stat.S_IFMT(member.external_attr >> 16)
    # The name as it stands in the file: zipfile itself cuts at a zero byte and turns separators.
    if member.orig_filename != name or "\\" in name or DRIVE.match(name) or not name.isprintable():
        return "has a name that is not allowed"
    if any(part in ("", ".", "..") for part in name.removesuffix("/").split("/")):
        return "leads out of the bundle"
    if kind not in (0, stat.S_IFDIR if member.is_dir() else stat.S_IFREG):
        return "is a link or a device"
    if member.flag_bits & ENCRYPTED:
        return "is encrypted"
    return None if member.compress_type in METHODS else "is compressed in an unknown way"


def _write(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    """One member, never more of it than was announced; zipfile holds it against its checksum."""
    target.parent.mkdir(parents=True, exist_ok=True)
    left = member.file_size
    with archive.open(member) as source, target.open("xb") as file:
        while block := source.read(BLOCK):
            left -= len(block)
            if left < 0:
                raise ValueError(f"{member.filename} is longer than announced")
            file.write(block)
    if left:
        raise ValueError(f"{member.filename} is shorter than announced")
