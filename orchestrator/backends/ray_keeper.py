"""A local Ray, for as long as it is used: `python -m qsweep.orchestrator.backends.ray_keeper`.

It runs in a session of its own, so that agents outlive the launcher that asked for it. It prints its address, and
ends when none of qsweep's actors is left for a while.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time

from qsweep.orchestrator.cluster import Wanted, load_ray, our_actors, start_own
from qsweep.orchestrator.machine import Machine
from qsweep.sweeps.errors import QsweepError

IDLE = 20.0
"""Seconds without an actor after which it ends."""
POLL = 1.0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cores", type=int, required=True)
    parser.add_argument("--gpus", type=int, required=True)
    parser.add_argument("--cpus-per-worker", type=float)
    parser.add_argument("--workers", type=int)
    given = parser.parse_args(arguments)
    machine = Machine(cores=given.cores, gpus=given.gpus, torch="")
    try:
        address = start_own(machine, Wanted(cpus=given.cpus_per_worker), given.workers)
    except QsweepError as error:
        sys.stderr.write(f"qsweep: {error}\n")
        return error.exit_code
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    sys.stdout.write(f"{address}\n")
    sys.stdout.flush()
    used = time.monotonic()
    while time.monotonic() - used < IDLE:
        time.sleep(POLL)
        if our_actors():
            used = time.monotonic()
    load_ray().shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
