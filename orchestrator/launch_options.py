"""The options that only the commands share which start work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qsweep.orchestrator.freezing import Code

LeaseOption = Annotated[
    float,
    typer.Option(
        "--lease",
        envvar="QSWEEP_LEASE",
        min=1,
        help="Seconds after its last heartbeat that a silent agent loses its jobs.",
    ),
]
WeightsOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--weights",
        metavar="FILE",
        help="A file of weights that trainings start from or a teacher has, a folder of them, or a job whose model "
        "was kept. The home keeps a copy.",
        show_default="weights/ beside the data; torchvision's are downloaded",
    ),
]
CodeOption = Annotated[
    Code | None,
    typer.Option(
        "--code",
        help="If the code differs from the sweep's: continue with its frozen code, or the current one.",
        show_default="ask",
    ),
]
