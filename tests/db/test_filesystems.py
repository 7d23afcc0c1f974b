"""SQLite stays off file systems that several machines share."""

from __future__ import annotations

from pathlib import Path

import pytest

from qsweep.db import filesystems
from qsweep.db.registry import Registry
from qsweep.sweeps.errors import InputError

MOUNTS = r"""
22 1 259:1 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:25 / /home rw,nosuid shared:12 - nfs4 server:/home rw,vers=4.2
31 30 0:26 / /home/me/scratch rw - xfs /dev/sdb rw
32 22 0:27 / /mnt/with\040space rw - cifs //server/share rw
33 22 0:28 / /mnt/ssh rw - fuse.sshfs me@host: rw
34 22 0:29 / /mnt/stick rw - fuseblk /dev/sdc1 rw
35 22 0:30 / /data rw - ext4 /dev/sdd rw
36 22 0:31 / /data rw - lustre mgs@tcp:/data rw
37 22 0:32 / /mnt/container rw - fuse.fuse-overlayfs fuse-overlayfs rw
"""


@pytest.mark.parametrize(
    ("path", "kind", "refused"),
    [
        ("/var/tmp/registry.db", "ext4", False),
        ("/home/me/.qsweep/registry.db", "nfs4", True),
        ("/home/me/scratch/registry.db", "xfs", False),
        ("/homework/registry.db", "ext4", False),
        ("/mnt/with space/registry.db", "cifs", True),
        ("/mnt/ssh/registry.db", "fuse.sshfs", True),
        ("/mnt/stick/registry.db", "fuseblk", False),
        ("/mnt/container/registry.db", "fuse.fuse-overlayfs", False),
        ("/data/registry.db", "lustre", True),  # the later mount hides the earlier one
    ],
)
def test_the_file_system_is_that_of_the_nearest_mount(path: str, kind: str, refused: bool) -> None:
    assert filesystems.kind_of(Path(path), MOUNTS) == kind
    assert filesystems.is_network(kind) == refused


@pytest.mark.parametrize(
    "kind",
    [
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "lustre",
        "gpfs",
        "beegfs",
        "ceph",
        "9p",
        "afs",
        "fuse.sshfs",
        "fuse.new",
    ],
)
def test_network_file_systems_are_known_by_type(kind: str) -> None:
    assert filesystems.is_network(kind)


def test_a_registry_on_a_network_file_system_is_refused_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"22 1 0:1 / {tmp_path} rw - nfs4 server:/home rw\n")
    monkeypatch.setattr(filesystems.refuse_network, "__kwdefaults__", {"mounts": mounts})
    with pytest.raises(InputError, match=r"nfs4.*qsweep db serve.*postgresql\+psycopg"):
        Registry.open(tmp_path / "home" / "registry.db", create=True)
    assert not (tmp_path / "home").exists()


def test_without_a_mount_table_nothing_is_refused(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    filesystems.refuse_network(tmp_path, mounts=mounts)  # raises nothing
    mounts.write_text(f"1 1 0:1 / {tmp_path} rw - nfs4 server:/ rw\n")
    with pytest.raises(InputError):
        filesystems.refuse_network(tmp_path, mounts=mounts)
