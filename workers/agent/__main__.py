"""`python -m workers.agent`: one agent on this machine. Prints its number first, for its supervisor."""

from __future__ import annotations

import argparse
import logging
import math
import os
import signal
import socket
import sys
import threading
from functools import partial
from pathlib import Path

import torch

from db.clock import boot_id, process_started
from db.home import Home
from db.registry import Registry
from db.rows import AgentInfo
from sweeps.code import code_origin
from sweeps.errors import QsweepError
from workers.agent.directed import DirectedAgent, Orders
from workers.agent.heart import Heart
from workers.agent.loop import Agent, LeaseGone
from workers.agent.node import check_device
from workers.device import build, device_class, precisions

PATIENCE = 600.0
"""Seconds without an optimizer step after which an agent counts as hung."""
LEASE_GONE = 3
"""Exit code of an agent that lost its lease."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--lease", type=float, required=True)
    parser.add_argument("--sweep", type=int)
    parser.add_argument("--time-limit", type=float, default=math.inf)
    parser.add_argument("--leash", action="store_true", help="leave when the standard input ends")
    parser.add_argument("--directed", action="store_true", help="take orders from the standard input")
    given = parser.parse_args(arguments)
    home = Home.at(given.home, registry=os.environ.get("QSWEEP_REGISTRY"), data=given.data)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda *_: stop.set())
    orders = Orders(sys.stdin, stop) if given.leash or given.directed else None
    torch.set_num_threads(1)
    try:
        return run(
            home,
            lease=given.lease,
            sweep=given.sweep,
            time_limit=given.time_limit,
            stop=stop,
            orders=orders if given.directed else None,
        )
    except QsweepError as error:
        sys.stderr.write(f"qsweep agent: {error}\n")
        return error.exit_code


def run(
    home: Home,
    *,
    lease: float,
    sweep: int | None,
    time_limit: float,
    stop: threading.Event,
    orders: Orders | None = None,
) -> int:
    """Enlist, work, retire; the exit code."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    check_device(device)
    registry = Registry.open(home.registry)
    log_file = home.logs / "agents" / f"{socket.gethostname()}-{os.getpid()}.log"
    agent = registry.enlist(
        AgentInfo(
            host=socket.gethostname(),
            pid=os.getpid(),
            process_started=process_started(os.getpid()),
            boot_id=boot_id(),
            backend=os.environ.get("QSWEEP_BACKEND", "local"),
            device=device_class(device),
            build=build(),
            precisions=precisions(device),
            code=code_origin(),
            log=str(log_file.relative_to(home.root)),
            lease=lease,
        )
    )
    sys.stdout.write(f"{agent}\n")
    sys.stdout.flush()
    log_file.parent.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(filename=log_file, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    heart = Heart(registry, agent, lease=lease, patience=PATIENCE)
    heart.start()
    make = Agent if orders is None else partial(DirectedAgent, orders)
    try:
        make(
            home,
            registry,
            device,
            agent=agent,
            code=code_origin(),
            heart=heart,
            stop=stop,
            sweep=sweep,
            time_limit=time_limit,
        ).run()
    except LeaseGone:
        return LEASE_GONE
    finally:
        heart.stop()
    registry.retire(agent)
    registry.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
