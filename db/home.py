"""The home folder of a user's sweeps: where the registry, the results and the models are."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from qsweep.sweeps.errors import InputError
from qsweep.sweeps.wholefiles import write_whole

VERSION = "1"
STORE = "RESULTS"
"""The file of a home that holds the URL of its results, if they lie elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Home:
    """The folders of one home, the URL of its registry and the folder of the data sets."""

    root: Path
    registry: str
    data: Path

    @classmethod
    def at(cls, root: Path, *, registry: str | None = None, data: Path | None = None) -> Home:
        """The home at `root`, with its own registry and data folder where none is named."""
        root = root.expanduser().absolute()
        return cls(
            root=root,
            registry=registry or str(root / "registry.db"),
            data=(data or root / "data").expanduser().absolute(),
        )

    @property
    def results(self) -> Path:
        return self.root / "results"

    @property
    def store(self) -> Path | str:
        """Where the results are: the folder of this home, or the URL that its first launch named."""
        named = self.root / STORE
        return named.read_text(encoding="utf-8").strip() if named.is_file() else self.results

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def weights(self) -> Path:
        """Weights that trainings start from, by the name that a sweep gives them."""
        return self.root / "weights"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def corruptions(self) -> Path:
        """Corrupted test sets that were generated here: they can be made again."""
        return self.root / "corruptions"

    @property
    def code(self) -> Path:
        """Snapshots of the code that sweeps were launched with."""
        return self.root / "code"

    @property
    def user_code(self) -> Path:
        """Copies of the code of users that sweeps were launched with, by its hash."""
        return self.root / "user_code"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def starts(self) -> Path:
        """Records of what was started on clusters."""
        return self.root / "starts"

    @property
    def probes(self) -> Path:
        """What is known of the machines that this home is used on."""
        return self.root / "probes"

    def check(self) -> None:
        """Raise InputError if this home can't be used. Changes nothing."""
        stamp = self.root / "VERSION"
        if stamp.is_file() and (found := stamp.read_text(errors="replace").strip()) != VERSION:
            raise InputError(
                f"this home has layout version {found!r}",
                place=str(self.root),
                allowed=f"this program's is {VERSION!r}",
            )
        nearest = next(folder for folder in (self.root, *self.root.parents) if folder.exists())
        if not _can_be_written(nearest):
            raise InputError(
                f"{nearest} is not a folder that can be written",
                place=f"home {self.root}",
                allowed="name another with --home DIR or QSWEEP_HOME",
            )

    def prepare(self) -> None:
        """Make the folders. Raises InputError if they can't be made."""
        self.check()
        try:
            for folder in (self.results, self.models, self.checkpoints, self.logs, self.code):
                folder.mkdir(parents=True, exist_ok=True)
            stamp = self.root / "VERSION"
            if not stamp.is_file():
                write_whole(stamp, f"{VERSION}\n".encode())
        except OSError as error:
            raise InputError(str(error), place=f"home {self.root}", allowed="name another with --home DIR") from None


def _can_be_written(folder: Path) -> bool:
    """Whether files can be made there: a superuser is told so of any folder, also of /proc. Leaves nothing behind."""
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        return False
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True
