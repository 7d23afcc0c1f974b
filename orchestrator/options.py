"""The options that many commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from qsweep.db.home import Home

HOME = ".qsweep"


def complete_sweep(incomplete: str) -> list[str]:
    """Shell completion of a built-in sweep's name."""
    from qsweep.sweeps.files import builtin_names

    return [name for name in builtin_names() if name.startswith(incomplete)]


def complete_launched(context: typer.Context, incomplete: str) -> list[str]:
    """Shell completion of a launched sweep: the names and variants that the registry has, the newest first."""
    from qsweep.db.registry import Registry
    from qsweep.sweeps.errors import QsweepError

    given = context.params
    home = given.get("home") or os.environ.get("QSWEEP_HOME") or HOME
    url = given.get("registry") or os.environ.get("QSWEEP_REGISTRY")
    try:
        registry = Registry.open_if_present(home_of(Path(home), url).registry)
        if registry is None:
            return []
        with registry:
            sweeps = registry.sweeps()
    except QsweepError:
        return []  # a shell in the middle of a line is no place for a message
    names = dict.fromkeys([*(sweep.name for sweep in sweeps), *(sweep.title for sweep in sweeps)])
    return [name for name in names if name.startswith(incomplete)]


HomeOption = Annotated[
    Path,
    typer.Option(
        "--home",
        envvar="QSWEEP_HOME",
        help="Folder of the registry, results, models and logs.",
        show_default=HOME,
    ),
]
RegistryOption = Annotated[
    str | None,
    typer.Option(
        "--registry",
        envvar="QSWEEP_REGISTRY",
        help="Database URL of the registry.",
        show_default="SQLite in the home",
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option("--data", envvar="QSWEEP_DATA", help="Folder of the data sets.", show_default="data/ in the home"),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SweepArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="A launched sweep: NAME (as written) or NAME@VARIANT.",
        autocompletion=complete_launched,
    ),
]
SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="SWEEP", help="A built-in sweep or the path of a sweep file.", autocompletion=complete_sweep
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting: a value fixes it, a [list] makes it an axis. Makes a variant.",
    ),
]
WhereOption = Annotated[
    str | None,
    typer.Option("--where", metavar="EXPR", help='Only these jobs, e.g. "bits == 2 and depth > 2".'),
]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="Only the first N jobs.")]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        metavar="N",
        help="Number of agents.",
        show_default="one per GPU, else one per core",
    ),
]
RayAddressOption = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        metavar="HOST:PORT",
        help="Head of a running Ray cluster (RAY_ADDRESS), or auto: the cluster that runs on this machine.",
        show_default="a local Ray instance that qsweep starts",
    ),
]
CpusOption = Annotated[
    float | None,
    typer.Option("--cpus-per-worker", min=0.01, help="Cores that Ray sets aside for an agent.", show_default="1"),
]
GpusOption = Annotated[
    float | None,
    typer.Option(
        "--gpus-per-worker",
        min=0,
        help="GPUs that Ray sets aside for an agent; a fraction shares one.",
        show_default="1 where there are GPUs",
    ),
]
MemoryOption = Annotated[
    str | None,
    typer.Option(
        "--memory-per-worker",
        metavar="SIZE",
        help="Memory that Ray sets aside for an agent, e.g. 4GB.",
        show_default="not counted",
    ),
]

DEFAULT_HOME = Path(HOME)


def home_of(home: Path, registry: str | None = None, data: Path | None = None) -> Home:
    """The home that the global options name."""
    return Home.at(home, registry=registry, data=data)


def size_text(count: float) -> str:
    """Bytes as a person says them: `512 B`, `38 MB`, `1.2 TB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
