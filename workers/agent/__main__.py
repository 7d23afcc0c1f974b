"""`python -m qsweep.workers.agent`: one agent on this machine. Prints its number first, for its supervisor."""

from __future__ import annotations

import argparse
import logging
import math
import os
import socket
import sys
import threading
from pathlib import Path

from qsweep.db.belonging import check_belonging
from qsweep.db.clock import machine_id, process_started
from qsweep.db.errors import LeaseLost, RegistryFull, RegistryUnavailable
from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.rows import AgentInfo, Scope
from qsweep.sweeps.code import code_origin
from qsweep.sweeps.errors import QsweepError
from qsweep.sweeps.logs import log_to
from qsweep.sweeps.spec import Spec
from qsweep.workers.agent.directed import DirectedAgent, Orders
from qsweep.workers.agent.endings import DeviceLost, LeaseGone, OnlyFails
from qsweep.workers.agent.exits import Exit
from qsweep.workers.agent.gauge import Gauge
from qsweep.workers.agent.heartbeat import PATIENCE, Heartbeat
from qsweep.workers.agent.loop import Agent
from qsweep.workers.agent.merging import Merging
from qsweep.workers.agent.stopping import listen
from qsweep.workers.agent.workplace import Workplace
from qsweep.workers.environment import PLACE
from qsweep.workers.hardware import Hardware, plain_processor


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--lease", type=float, required=True)
    parser.add_argument("--sweep", type=int)
    parser.add_argument("--selection", type=int)
    parser.add_argument("--time-limit", type=float, default=math.inf)
    parser.add_argument("--leash", action="store_true", help="leave when the standard input ends")
    parser.add_argument("--directed", action="store_true", help="take orders from the standard input")
    given = parser.parse_args(arguments)
    home = Home.at(given.home, registry=os.environ.get("QSWEEP_REGISTRY"), data=given.data)
    stop = listen()
    orders = Orders(sys.stdin, stop) if given.leash or given.directed else None
    scope = Scope(sweep=given.sweep, selection=given.selection)
    try:
        return run(
            home,
            lease=given.lease,
            scope=scope,
            time_limit=given.time_limit,
            stop=stop,
            orders=orders if given.directed else None,
        )
    except (RegistryUnavailable, RegistryFull) as error:
        sys.stderr.write(f"qsweep agent: {error}\n")
        return Exit.REGISTRY_GONE
    except QsweepError as error:
        sys.stderr.write(f"qsweep agent: {error}\n")
        return error.exit_code


def run(
    home: Home,
    *,
    lease: float,
    scope: Scope,
    time_limit: float,
    stop: threading.Event,
    orders: Orders | None = None,
) -> int:
    """Enlist, work, retire; the exit code."""
    registry = Registry.open(home.registry)
    spec = spec_of(registry, scope)
    hardware = hardware_for(spec)
    incarnation = check_belonging(home, registry, writing=True)
    log_file = home.logs / "agents" / f"{socket.gethostname()}-{os.getpid()}.log"
    agent = registry.agents.enlist(
        AgentInfo(
            host=socket.gethostname(),
            pid=os.getpid(),
            process_started=process_started(os.getpid()),
            boot_id=machine_id(),
            backend=os.environ.get("QSWEEP_BACKEND", "local"),
            device=hardware.name,
            build=hardware.build,
            precisions=hardware.precisions,
            code=code_origin(),
            log=str(log_file.relative_to(home.root)),
            lease=lease,
            place=os.environ.get(PLACE),
        )
    )
    sys.stdout.write(f"{agent}\n")
    sys.stdout.flush()
    log_file.parent.mkdir(parents=True, exist_ok=True)
    log_to(log_file)
    heartbeat = Heartbeat(registry.queue, agent, lease=lease, patience=PATIENCE, gauge=Gauge().read)
    merging = Merging.of(home, registry, stop)
    place = Workplace(
        home=home,
        queue=registry.queue,
        hardware=hardware,
        agent=agent,
        code=code_origin(),
        heartbeat=heartbeat,
        stop=stop,
        time_limit=time_limit,
        memory=0 if spec is None else spec.memory,
        incarnation=incarnation,
        published=merging.published,
    )
    reason, to_the_end = "", False
    heartbeat.start()
    try:
        (Agent(place, scope) if orders is None else DirectedAgent(place, registry.trials, orders)).run()
        to_the_end = not stop.is_set()
    except (LeaseGone, LeaseLost):
        return Exit.LEASE_GONE
    except DeviceLost as error:
        logging.getLogger(__name__).error("the device is lost: %s", error)
        sys.stderr.write(f"qsweep agent: the device is lost: {error}\n")
        return Exit.DEVICE_LOST
    except OnlyFails as error:
        reason = str(error)
    finally:
        merging.end(at_once=not to_the_end)
        heartbeat.stop()
    if reason:
        logging.getLogger(__name__).error("stopped: %s", reason)
        registry.agents.stop(agent, reason)
    else:
        registry.agents.retire(agent)
    registry.close()
    return Exit.ONLY_FAILED if reason else Exit.LEFT


def spec_of(registry: Registry, scope: Scope) -> Spec | None:
    """What the sweep asks for that is worked for; None if it is all of them."""
    found = next((one for one in registry.catalogue.sweeps() if one.id == scope.sweep), None)
    return None if found is None else Spec.from_json(found.spec, place=found.title)


def hardware_for(spec: Spec | None) -> Hardware:
    """What this agent computes on, with torch ready for it: not where the sweep calls functions or scripts alone and
    there can be no GPU, for torch takes longer to import than such an agent takes for all the rest.

    Raises InputError if this build of torch can't compute there.
    """
    if spec is not None and spec.calls and (processor := plain_processor()) is not None:
        return processor
    import torch

    from qsweep.workers.device import check_device, hardware_of, this_device

    torch.set_num_threads(1)
    device = this_device()
    check_device(device)
    return hardware_of(device)


if __name__ == "__main__":
    sys.exit(main())
