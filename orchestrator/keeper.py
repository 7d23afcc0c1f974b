"""The keeper of a detached sweep, a launcher that nobody looks at: `python -m qsweep.orchestrator.keeper`.

It runs on this machine in a session of its own, starts agents again by the law of `orchestrator.upkeep`, and ends when
nothing is left to run, or when the sweep is paused or cancelled. Nothing depends on it: agents whose keeper dies work
on.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.rows import Scope
from qsweep.orchestrator.backends.base import Fleet
from qsweep.orchestrator.backends.local import LocalBackend
from qsweep.orchestrator.layout import tell
from qsweep.orchestrator.screen import Screen
from qsweep.orchestrator.watch import Watch
from qsweep.sweeps.errors import QsweepError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--sweep", type=int, required=True)
    parser.add_argument("--selection", type=int)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--gpus", type=int, required=True)
    parser.add_argument("--lease", type=float, required=True)
    parser.add_argument("--time-limit", type=float)
    parser.add_argument("--code", required=True)
    given = parser.parse_args(arguments)
    home = Home.at(given.home, registry=os.environ.get("QSWEEP_REGISTRY"), data=given.data)
    console = Screen(stderr=False, width=200)
    try:
        with Registry.open(home.registry) as registry:
            sweep = next(one for one in registry.catalogue.sweeps() if one.id == given.sweep)
            fleet = Fleet(
                home=home,
                workers=given.workers,
                gpus=given.gpus,
                lease=given.lease,
                time_limit=given.time_limit,
                scope=Scope(sweep=given.sweep, selection=given.selection),
                title=sweep.title,
                code=given.code,
            )
            backend = LocalBackend(beside=True)
            backend.adopt(fleet)
            Watch(home, registry, sweep, backend, fleet, console).run()
    except QsweepError as error:
        tell(console, str(error))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
