"""What is asked of child processes that have torch: one dataclass a question, with the function that answers it.

A question is JSON on its way: its fields are texts, numbers, and lists and mappings of these. `sweeps.service` asks,
`workers.service` answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, kw_only=True)
class Question:
    """Answered by the function `answered_by`, `MODULE:NAME`, which takes it and returns a mapping."""

    answered_by: ClassVar[str]


@dataclass(frozen=True, kw_only=True)
class Probe(Question):
    """What this machine has, and whether data and weights can be read in these folders."""

    answered_by: ClassVar = "qsweep.workers.probe:probe"

    data: str
    """Folder of the data sets."""
    kept: str | None = None
    """Where the home keeps weights."""
    weights: Sequence[str] = ()
    """Files of weights, or folders of them, that were given."""
    trainings: Sequence[Mapping[str, Any]] = ()
    """Settings of trainings, whose data and weights are checked."""
    distortions: Sequence[Mapping[str, Any]] = ()
    """Settings of a training on a data set that stays files, and the corruptions that are asked of it."""
    datasets: Sequence[str] = ()
    """Names of data sets to read and check."""
    apart: bool = False
    """Say of each named data set what is the matter with it, instead of raising the first problem."""
    download: bool = False
    """Download what is missing."""
    reads_data: bool = True
    """Without, no data set is read."""
    user_code: str = ""
    """The home's folder of copies of the code of users."""
    codes: Sequence[Mapping[str, Any]] = ()
    """Code of users that the home may not keep yet: `main` and `files` of each."""


@dataclass(frozen=True, kw_only=True)
class CheckDevice(Question):
    """Whether the device computes what it should: no check is begun after that many seconds."""

    answered_by: ClassVar = "qsweep.workers.selfcheck:check"

    seconds: float


@dataclass(frozen=True, kw_only=True)
class DescribeImages(Question):
    """The settings of a data set in ImageFolder layout."""

    answered_by: ClassVar = "qsweep.workers.data.folders:describe"

    folder: str
    size: int
    """Side to which images are cut, in pixels."""


@dataclass(frozen=True, kw_only=True)
class DescribeArrays(Question):
    """The settings of arrays of a user; kept below a folder of data sets, if one is named."""

    answered_by: ClassVar = "qsweep.workers.data.arrays:describe"

    source: str
    """As `data` in a sweep file."""
    folder: str
    """The folder of that file."""
    data: str
    """The folder of the data sets, in which torchvision's lie."""
    keep: bool = False
    """Write them to that folder, from which agents read them."""


@dataclass(frozen=True, kw_only=True)
class ArchiveData(Question):
    """Data sets of a folder, to be written as archives that numpy alone can read."""

    answered_by: ClassVar = "qsweep.workers.data.archive:archive"

    data: str
    out: str
    datasets: Sequence[str]
    download: bool = False
    arrays: Sequence[str] = ()
    """Folders below `data` of arrays of users, to be copied as they are."""


@dataclass(frozen=True, kw_only=True)
class WriteCorruptions(Question):
    """A corrupted test set, or one image under every corruption, to be written. Progress goes to stderr."""

    answered_by: ClassVar = "qsweep.workers.corruptions.writing:write"

    dataset: str
    data: str
    out: str | None = None
    corruptions: Sequence[str] = ()
    """All, if none is named; so it is with `severities`."""
    severities: Sequence[int] = ()
    seed: int = 0
    frost: str | None = None
    """Folder with photographs of frost."""
    sheet: str | None = None
    """File of the picture of one image under everything."""
    image: int = 0
    """Number of that image."""
    size: int | None = None
    """Side that the images of a tree are cut to, in pixels."""
    workers: int = 1


@dataclass(frozen=True, kw_only=True)
class WarmUp(Question):
    """A cohort to be made ready to measure: `{}`, or `problem`, or `too_large` where it does not fit into memory."""

    answered_by: ClassVar = "qsweep.workers.calibration:warm_up"

    data: str
    trainings: Sequence[Mapping[str, Any]]
    slots: int
    form: str
    user_code: str = ""
    """The home's folder of copies of the code of users."""


@dataclass(frozen=True, kw_only=True)
class Measure(Question):
    """How long a step of the cohort takes that was made ready, over about that many seconds."""

    answered_by: ClassVar = "qsweep.workers.calibration:measure"

    seconds: float


@dataclass(frozen=True, kw_only=True)
class LandscapePoints(Question):
    """Losses and accuracies at `count` points from `first` on of a landscape. The last one asked for stays ready."""

    answered_by: ClassVar = "qsweep.workers.landscape.points:score"

    identity: str
    data: str
    models: str
    """Folder of the trained models."""
    landscape: Mapping[str, Any]
    trained: Sequence[Mapping[str, Any]]
    """Settings, file and hash of each model."""
    first: int
    count: int
    user_code: str = ""
    """The home's folder of copies of the code of users."""


QUESTIONS: Mapping[str, type[Question]] = {
    one.__name__: one
    for one in (
        Probe,
        CheckDevice,
        DescribeImages,
        DescribeArrays,
        ArchiveData,
        WriteCorruptions,
        WarmUp,
        Measure,
        LandscapePoints,
    )
}
"""Every question, by its name."""
