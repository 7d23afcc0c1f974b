"""`python -m qsweep.workers.bundle.agent`: one agent of a bundle on one GPU or core. Started by the runner alone."""

from __future__ import annotations

import argparse
import math
import os
import socket
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from qsweep.db.errors import LeaseLost
from qsweep.db.home import Home
from qsweep.db.rules import LEASE
from qsweep.sweeps.code import code_origin
from qsweep.sweeps.errors import QsweepError
from qsweep.sweeps.logs import log_to
from qsweep.workers.agent.endings import DeviceLost, LeaseGone
from qsweep.workers.agent.exits import Exit
from qsweep.workers.agent.heartbeat import PATIENCE, Heartbeat
from qsweep.workers.agent.loop import Agent
from qsweep.workers.agent.stopping import StopRequest, listen
from qsweep.workers.agent.workplace import Workplace
from qsweep.workers.bundle.queue_client import QueueClient
from qsweep.workers.device import hardware_of, this_device


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--number", type=int, required=True)
    parser.add_argument("--connection", type=int, required=True, help="descriptor of the connection to the runner")
    parser.add_argument("--time-limit", type=float, default=math.inf)
    given = parser.parse_args(arguments)
    stop = listen()
    torch.set_num_threads(1)
    home = Home.at(given.bundle, data=given.data)
    log_file = home.logs / f"{socket.gethostname()}-{os.getpid()}.log"
    log_to(log_file)
    try:
        return run(
            home, QueueClient(Connection(given.connection)), given.number, stop=stop, time_limit=given.time_limit
        )
    except QsweepError as error:
        sys.stderr.write(f"agent {given.number}: {error}\n")
        return error.exit_code


def run(home: Home, queue: QueueClient, number: int, *, stop: StopRequest, time_limit: float) -> int:
    """Enlist and work until nothing is left; the exit code."""
    hardware = hardware_of(this_device())
    queue.enlist(number, hardware.precisions)
    queue.began(
        {
            "host": socket.gethostname(),
            "device": hardware.name,
            "torch": hardware.build,
            "code": code_origin(),
        }
    )
    heartbeat = Heartbeat(queue, number, lease=LEASE, patience=PATIENCE)
    place = Workplace(
        home=home,
        queue=queue,
        hardware=hardware,
        agent=number,
        code=code_origin(),
        heartbeat=heartbeat,
        stop=stop,
        time_limit=time_limit,
    )
    heartbeat.start()
    try:
        Agent(place).run()
    except (LeaseGone, LeaseLost):
        return Exit.LEASE_GONE
    except DeviceLost as error:
        sys.stderr.write(f"agent {number}: the device is lost: {error}\n")
        return Exit.DEVICE_LOST
    finally:
        heartbeat.stop()
    return Exit.LEFT


if __name__ == "__main__":
    sys.exit(main())
