"""What is distorted: `corruptions`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from qsweep.orchestrator.children import ask
from qsweep.orchestrator.options import DEFAULT_HOME, DataOption, HomeOption, JsonOption, home_of
from qsweep.orchestrator.terminal import write_json
from qsweep.sweeps.corruptions import CORRUPTIONS, LARGEST, SEVERITIES
from qsweep.sweeps.datasets import DATASETS, ImageFolder
from qsweep.sweeps.errors import InputError, nearest
from qsweep.sweeps.questions import WriteCorruptions

TREE = "imagenet"


def add_to(app: typer.Typer) -> None:
    app.command("corruptions", epilog="Example: qsweep corruptions CIFAR-100 --out CIFAR-100-C --data ~/data")(
        corruptions
    )


def corruptions(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="CIFAR-10, CIFAR-100, digits or imagenet.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder of the corrupted set; what is there stays.")
    ] = None,
    corruption: Annotated[
        list[str] | None,
        typer.Option("--corruption", help="Only this one; may be given again.", show_default="all 15"),
    ] = None,
    severity: Annotated[
        list[int] | None,
        typer.Option("--severity", help="Only this one; may be given again.", show_default="1 to 5"),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of every draw.")] = 0,
    frost: Annotated[
        Path | None,
        typer.Option("--frost", metavar="DIR", help="Photographs of frost.", show_default="synthetic ones"),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option("--contact-sheet", metavar="FILE.png", help="Draw one image under every corruption."),
    ] = None,
    image: Annotated[int, typer.Option("--image", min=0, help="Number of that image in the test set.")] = 0,
    size: Annotated[
        int | None,
        typer.Option("--size", min=8, max=LARGEST, help="Side of a tree's images, in pixels.", show_default="224"),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes.")] = 1,
    home: HomeOption = DEFAULT_HOME,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a test set under the 15 corruptions of CIFAR-C or ImageNet-C, in the published layout. Again = resume.

    CIFAR and digits: NAME.npy for each corruption, severity 1 first, and labels.npy. Severities named by --severity
    are files of their own, NAME-SEVERITY.npy. imagenet: a tree CORRUPTION/SEVERITY/CLASS/FILE.JPEG of the tree
    CLASS/FILE in DIR/imagenet/val, DIR/val or DIR itself, which may be any folder of images. A sweep takes it where it
    lies beside the data set, as ImageNet-C or NAME-C.
    """
    name = _dataset(dataset)
    if out is None and sheet is None:
        raise InputError("say what to write", place="corruptions", allowed="--out DIR, --contact-sheet FILE.png")
    if size is not None and name != TREE:
        raise InputError("these images have their size", place="--size", allowed=f"allowed with {TREE} alone")
    question = WriteCorruptions(
        dataset=name,
        data=str(home_of(home, None, data).data),
        out=None if out is None else str(out.expanduser()),
        corruptions=[_corruption(one) for one in corruption or ()],
        severities=[_severity(one) for one in severity or ()],
        seed=seed,
        frost=None if frost is None else str(frost.expanduser()),
        sheet=None if sheet is None else str(sheet.expanduser()),
        image=image,
        size=size,
        workers=workers,
    )
    _check_folder(out.expanduser() if out else None, "--out")
    _check_folder(sheet.expanduser().parent if sheet else None, "--contact-sheet")
    ask(question, failing="corrupting the images", watched=True)
    files = [str(path) for path in (out, sheet) if path is not None]
    if as_json:
        write_json(files)
        return
    for file in files:
        typer.echo(file)


def _dataset(given: str) -> str:
    """The name of a data set from its name or its title."""
    sets = [one for one in DATASETS.values() if one.name != ImageFolder.name]
    names = {one.title.casefold(): one.name for one in sets} | {one.name: one.name for one in sets}
    if given.casefold() not in names:
        known = [*(one.title for one in sets), TREE]
        raise InputError(f"there is no data set {given!r}", place="corruptions", allowed=nearest(given, known))
    return names[given.casefold()]


def _corruption(given: str) -> str:
    if given not in CORRUPTIONS:
        raise InputError(f"there is no corruption {given!r}", place="--corruption", allowed=nearest(given, CORRUPTIONS))
    return given


def _severity(given: int) -> int:
    if given not in SEVERITIES:
        allowed = "allowed: " + ", ".join(map(str, SEVERITIES))
        raise InputError(f"there is no severity {given}", place="--severity", allowed=allowed)
    return given


def _check_folder(folder: Path | None, option: str) -> None:
    """Raise InputError unless files can be written there."""
    if folder is None:
        return
    nearest_one = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
    if not nearest_one.is_dir() or not os.access(nearest_one, os.W_OK | os.X_OK):
        raise InputError("this folder can't be written", place=f"{option} {folder}", allowed="name another")
