"""Where SQLite may not live: file systems that several machines share."""

from __future__ import annotations

import re
from pathlib import Path

from qsweep.sweeps.errors import InputError

MOUNTS = Path("/proc/self/mountinfo")

# SQLite's WAL needs memory shared by all its processes, which no network file system gives to two machines.
NETWORK = frozenset(
    [
        "9p",
        "acfs",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "davfs",
        "fhgfs",
        "gfs",
        "gfs2",
        "glusterfs",
        "gpfs",
        "lustre",
        "mfs",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "orangefs",
        "panfs",
        "pvfs2",
        "smb2",
        "smb3",
        "smbfs",
        "wekafs",
    ]
)
# A FUSE file system is taken for a network one unless it is known to be local.
LOCAL_FUSE = frozenset({"fuse.ext4", "fuse.ntfs", "fuse.ntfs-3g", "fuse.exfat", "fuse.fuse-overlayfs", "fuse.lxcfs"})


def is_network(kind: str) -> bool:
    return kind in NETWORK or (kind.startswith("fuse.") and kind not in LOCAL_FUSE)


def kind_of(path: Path, mounts: str) -> str:
    """The type of the file system that holds the absolute `path`, by the text of a `mountinfo` file."""
    found, depth = "", -1
    for line in mounts.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split()
        if not separator or len(fields) < 5:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4]))
        # A later mount on the same point hides the earlier one, hence >=.
        if path.is_relative_to(point) and len(point.parts) >= depth:
            found, depth = after.split()[0], len(point.parts)
    return found


def network_kind(path: Path, *, mounts: Path = MOUNTS) -> str | None:
    """The type of the network file system that `path` lies on; None if it is a local one, or nothing is known."""
    if not mounts.exists():
        return None
    kind = kind_of(path.resolve(), mounts.read_text(errors="replace"))
    return kind if is_network(kind) else None


def refuse_network(path: Path, *, mounts: Path = MOUNTS) -> None:
    """Raises InputError if `path` lies on a network file system. Without a mount table nothing is known."""
    if kind := network_kind(path, mounts=mounts):
        raise InputError(
            f"SQLite can't be trusted on a network file system ({kind}): two machines may both believe that "
            "they hold a job",
            place=str(path),
            allowed="use --home on a local disk, or Postgres: start one with `qsweep db serve` and pass the URL "
            "that it prints as --registry postgresql+psycopg://…",
        )
