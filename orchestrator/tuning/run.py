"""A tuning run from its request to its end: check, register, let Ray Tune try the jobs."""

from __future__ import annotations

import contextlib
import logging
import signal
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.rows import Scope, Sweep
from qsweep.orchestrator.backends.base import Fleet, Site
from qsweep.orchestrator.cluster import Resources, Wanted, check_address, connect, load_ray, nodes, start_own
from qsweep.orchestrator.data_folders import check_data, keep_arrays
from qsweep.orchestrator.freezing import Code, choose_code, choose_user_code, keep_code
from qsweep.orchestrator.kept_probes import look
from qsweep.orchestrator.layout import tell
from qsweep.orchestrator.machine import Machine
from qsweep.orchestrator.reach import check_reach
from qsweep.orchestrator.registration import find_launched, register
from qsweep.orchestrator.selection import Selection
from qsweep.orchestrator.tuning.scratch import check_scratch, told_if_full
from qsweep.orchestrator.tuning.space import Space, drawn_jobs
from qsweep.orchestrator.watch import Interrupted
from qsweep.reports.demands import spec_of
from qsweep.sweeps.errors import InputError, QsweepError
from qsweep.sweeps.job import Job
from qsweep.sweeps.kinds import TRAIN
from qsweep.sweeps.spec import matching
from qsweep.sweeps.text import shortened
from qsweep.sweeps.tuning import Scheduler, Search, Tuning
from qsweep.sweeps.words import counted

AT_WORK = "its trials are run by `qsweep tune`"
BROKEN_OFF = "its tuning was interrupted"
OVER = "its tuning is over"
SUFFIX = "+tune"
"""What a tuning run adds to the name of the sweep that it tunes. No sweep file may be called so: its bare name never
means a tuning run."""
LOST_ACTORS = 10
"""DeadAgents of its actor or its node that one trial survives."""


@dataclass(frozen=True, kw_only=True)
class Ground:
    """Where a tuning run's trials run, and what each of them takes there."""

    address: str | None
    wanted: Wanted
    workers: int | None
    """Trials at a time; None is as many as there is room for."""
    lease: float


def make_selection(selection: Selection, tuning: Tuning, name: str | None) -> Selection:
    """The sweep of a tuning run: the trainings that may be tried. Raises InputError."""
    trainings = tuple(job for job in selection.jobs if job.parent is None)
    of_trainings = not selection.spec.calls
    if of_trainings and tuning.metric.startswith("val_") and not all(job.training.val_images for job in trainings):
        raise InputError(
            f"{tuning.metric} needs a validation split, and some of the trainings hold out no images",
            place=f"{selection.spec.name}: val_fraction",
            allowed="for example: --set val_fraction=0.1",
        )
    chosen = tuple(matching(trainings, tuning.where))
    if not chosen:
        raise InputError(
            f"none of the {len(trainings)} jobs matches", place=f"--where {shortened(tuning.where or '')!r}"
        )
    spec = selection.spec
    # A sweep that measures the trials' models later has to find them: without its measures the sweep would keep none.
    keep = "all" if spec.keep == "children" and (spec.measures or spec.zero_shot) else spec.keep
    return Selection(
        spec=replace(
            spec,
            name=f"{spec.name}{SUFFIX}",
            tuning=tuning,
            measures=(),
            measures_of=(TRAIN.plural,),
            zero_shot=(),
            keep=keep,
        ),
        label=name or f"{selection.label}-{tuning.label}",
        jobs=trainings,
        chosen=chosen,
    )


def launched_selection(sweep: Sweep) -> Selection:
    """The selection that a tuning run was launched with, from what the registry keeps of it."""
    spec = spec_of(sweep)
    assert spec.tuning is not None
    jobs = spec.jobs()
    return Selection(spec=spec, label=sweep.label, jobs=jobs, chosen=tuple(matching(jobs, spec.tuning.where)))


def tune(home: Home, selection: Selection, ground: Ground, console: Console, *, code: Code | None) -> Sweep:
    """See a tuning run through; its sweep. Raises InputError before anything is written, Interrupted after Ctrl-C."""
    home.check()
    selection = choose_user_code(home, selection, code)
    known, _ = find_launched(home, selection)
    version = choose_code(known, code)
    load_ray()
    if _tuning(selection).search is Search.OPTUNA:
        _check_optuna()
    check_scratch()
    if ground.address is not None:
        check_address(ground.address)
    keep_arrays(home, selection.spec, selection.chosen)
    check_data(home, selection.chosen)
    machine = look(home, selection.chosen, codes=selection.spec.sources).machine
    with told_if_full(), _connected(ground, machine) as (site, resources):
        check_reach(home, site.hosts)
        first = () if _tuning(selection).search is Search.OPTUNA else drawn_jobs(selection.chosen, _tuning(selection))
        registry, sweep, words = register(
            home, replace(selection, chosen=tuple(first)), known, code=version, paused=AT_WORK
        )
        tell(console, f"{selection.title}: {words if first else 'Optuna draws the jobs'}")
        with registry:
            for one in machine.weights:
                one.keep()
            keep_code(home, sweep.code)
            fleet = Fleet(home=home, workers=site.agents, gpus=0, lease=ground.lease, scope=Scope(sweep=sweep.id),
                          title=sweep.title, code=sweep.code)  # fmt: skip
            _see_through(selection, registry, sweep, fleet, resources, console)
    return sweep


def _tuning(selection: Selection) -> Tuning:
    assert selection.spec.tuning is not None
    return selection.spec.tuning


@contextlib.contextmanager
def _connected(ground: Ground, machine: Machine) -> Iterator[tuple[Site, Resources]]:
    """On a Ray, the named cluster or a local one, which this process leaves at the end. Raises InputError."""
    ray = load_ray()
    try:
        if ground.address is not None:
            connect(ground.address)
        else:
            start_own(machine, ground.wanted, ground.workers)
        found = nodes()
        resources = ground.wanted.on(found)
        room = sum(resources.fit(node) for node in found)
        yield Site(hosts=frozenset(node.host for node in found), agents=ground.workers or room), resources
    finally:
        ray.shutdown()


def _see_through(
    selection: Selection, registry: Registry, sweep: Sweep, fleet: Fleet, resources: Resources, console: Console
) -> None:
    try:
        _fit(selection, registry, sweep, fleet, resources, console)
    except KeyboardInterrupt:
        # The trials' actors die with this connection; their agents write checkpoints and hand the jobs back.
        load_ray().shutdown()
        _wait_for_agents(registry, sweep)
        registry.sweeps.pause(sweep.id, BROKEN_OFF)
        raise Interrupted(f"interrupted; go on with: qsweep resume {sweep.title}") from None
    except BaseException:
        registry.sweeps.pause(sweep.id, BROKEN_OFF)
        raise
    registry.sweeps.pause(sweep.id, OVER)


def _wait_for_agents(registry: Registry, sweep: Sweep, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while registry.catalogue.counts(sweep.id).running and time.monotonic() < deadline:
        time.sleep(0.1)


def _fit(
    selection: Selection, registry: Registry, sweep: Sweep, fleet: Fleet, resources: Resources, console: Console
) -> None:
    from ray import tune as ray_tune

    from qsweep.orchestrator.tuning.news import News
    from qsweep.orchestrator.tuning.trial import Study, Trial, epochs_of

    tuning = _tuning(selection)
    epochs = max(epochs_of(job) for job in selection.chosen)
    trainable = ray_tune.with_resources(
        ray_tune.with_parameters(Trial, study=Study(fleet=fleet, sweep=sweep.id, tuning=tuning)),
        {"cpu": resources.cpus, "gpu": resources.gpus, "memory": resources.memory},
    )
    search = _search(selection, registry, sweep)
    with tempfile.TemporaryDirectory(prefix="qsweep-tune-") as scratch, _muted(), _interrupts() as interrupts:
        tuner = ray_tune.Tuner(
            trainable,
            **search.space,
            tune_config=ray_tune.TuneConfig(
                metric=tuning.metric,
                mode=tuning.mode.value,
                scheduler=_scheduler(tuning, epochs),
                search_alg=search.algorithm,
                num_samples=search.samples,
                max_concurrent_trials=fleet.workers,
                reuse_actors=True,
                trial_name_creator=str,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=ray_tune.RunConfig(
                name="trials",
                storage_path=str(Path(scratch)),
                verbose=0,
                log_to_file=False,
                checkpoint_config=ray_tune.CheckpointConfig(checkpoint_at_end=False),  # ours are in the registry
                failure_config=ray_tune.FailureConfig(max_failures=LOST_ACTORS),
                callbacks=[News(console, sweep.title, tuning, search.trials, interrupts)],
            ),
        )
        answer = tuner.fit()
    if answer.errors:
        reason = str(answer.errors[0]).strip().splitlines()[-1]
        raise QsweepError(f"{counted(len(answer.errors), 'trial')} could not be run; the first one: {reason}")


@dataclass(frozen=True, kw_only=True)
class _Searching:
    """How Tune is told what to try."""

    space: dict[str, Any]
    algorithm: Any
    samples: int
    trials: int


def _search(selection: Selection, registry: Registry, sweep: Sweep) -> _Searching:
    from ray import tune as ray_tune

    tuning = _tuning(selection)
    if tuning.search is not Search.OPTUNA:
        jobs = drawn_jobs(selection.chosen, tuning)
        grid = ray_tune.grid_search([job.to_json() for job in jobs])
        return _Searching(space={"param_space": {"job": grid}}, algorithm=None, samples=1, trials=len(jobs))
    space = Space(selection.spec, selection.chosen)
    tried = [row.job for row in registry.catalogue.jobs(sweep.id)]
    samples = tuning.samples_or_default
    return _Searching(
        space={},
        algorithm=_optuna(space, tuning, tried[:samples]),
        samples=samples,
        trials=samples,
    )


def _optuna(space: Space, tuning: Tuning, tried: Sequence[Job]) -> Any:
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return OptunaSearch(
        space,
        metric=tuning.metric,
        mode=tuning.mode.value,
        seed=tuning.seed,
        points_to_evaluate=[space.parameters(job) for job in tried],
    )


def _scheduler(tuning: Tuning, epochs: int) -> Any:
    from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler

    if tuning.scheduler is Scheduler.NONE:
        return FIFOScheduler()  # type: ignore[no-untyped-call]
    return AsyncHyperBandScheduler(
        time_attr="epoch", max_t=epochs, grace_period=min(tuning.grace, epochs), reduction_factor=tuning.reduction
    )


def _check_optuna() -> None:
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise InputError("Optuna is not installed", allowed="install it with: pip install 'qsweep[tune]'") from None


@contextlib.contextmanager
def _interrupts() -> Iterator[Sequence[int]]:
    """Ctrl-C raises KeyboardInterrupt as ever, and is noted: once in a while the exception gets lost within Tune."""
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _muted() -> Iterator[None]:
    """Tune's advice to programmers is not for our users, and its errors we report ourselves."""
    logger = logging.getLogger("ray.tune")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
