"""Bringing a bundle's results home: checked whole, fenced by job and attempt, counted once.

Nothing that a bundle says is used as a path or believed unchecked: `workers.bundle.findings` holds its ledger, and
`orchestrator.inspection` its files, against what was packed, before anything is written. Names are made here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from qsweep.db.belonging import check_belonging
from qsweep.db.compaction import merge_all
from qsweep.db.home import Home
from qsweep.db.model_names import model_name
from qsweep.db.registry import Registry
from qsweep.db.results import ResultStore
from qsweep.db.rows import BundleRow, Claim, Finished, JobRow, ParentModel
from qsweep.db.states import State
from qsweep.orchestrator.inspection import check_results, read_whole, results_file
from qsweep.sweeps.errors import InputError, QsweepError
from qsweep.sweeps.faults import point
from qsweep.sweeps.wholefiles import write_whole
from qsweep.workers.bundle.findings import Findings, Publication, Result, read_findings
from qsweep.workers.bundle.ledger import read_ledger
from qsweep.workers.bundle.local_queue import LEDGER
from qsweep.workers.bundle.manifest import FILE, Manifest, read_manifest, seed
from qsweep.workers.bundle.parcel import has_models, opened
from qsweep.workers.bundle.plain import read_plain

LOG = 1 << 26
"""Bytes of a bundle's logs that are kept: their end."""
OLD_DIGITS, DIGITS = 12, 32
"""Hex digits in the names of imported publications, formerly and now."""


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What an import found, in jobs."""

    title: str
    counted: int
    failed: int
    known: int
    """Counted by an earlier import of the same results."""
    refused: int
    """Whose attempt is over: recalled, invalidated, or done elsewhere meanwhile."""
    away: int
    """What the bundle still holds."""
    without_models: int
    """Counted without the model that a sweep asks for: it was not kept there, or did not come along."""
    measured_by: Mapping[str, int]
    """Of how many of these measures of a sweep wait for the model, by its title."""


def import_results(home: Home, path: Path) -> Imported:
    """Count what the bundle or parcel at `path` has found. Raises InputError, with nothing changed, if it is damaged,
    altered, or of another registry."""
    with opened(path) as folder, Registry.open(home.registry) as registry:
        check_belonging(home, registry, writing=True)
        manifest = read_manifest(folder)
        records = read_ledger(folder / LEDGER, seed(folder))
        bundle = _find_bundle(registry, manifest, path)
        rows = _find_jobs(registry, manifest, folder / FILE)
        findings = read_findings(records, manifest.claims, folder / LEDGER)
        models = has_models(folder)
        check_results(folder, findings, models=models)
        return _Import(home, registry, folder, bundle, rows, models=models).run(manifest.title, findings)


def _find_bundle(registry: Registry, manifest: Manifest, path: Path) -> BundleRow:
    for one in registry.catalogue.bundles():
        if (one.id, one.token) == (manifest.holder, manifest.token):
            return one
    raise InputError(
        "this bundle was packed from another registry, or its `pack` was ended before it was ready",
        place=str(path),
        allowed="import it where it was packed",
    )


def _find_jobs(registry: Registry, manifest: Manifest, path: Path) -> dict[int, JobRow]:
    """The registry's rows of the packed jobs, by number. Raises InputError if it knows one of them as another."""
    members = {row.id: row for row in registry.catalogue.jobs(registry.catalogue.find_sweep(manifest.title).id)}
    for claim in manifest.claims:
        row = members.get(claim.job_id)
        if row is None or row.identity != claim.job.identity or claim.attempt > row.attempt:
            raise InputError(
                f"job {claim.job.identity[:12]} was never packed into this bundle",
                place=str(path),
                allowed="copy the bundle again; nothing was imported",
            )
    found = {claim.job_id: members[claim.job_id] for claim in manifest.claims}
    _check_parents(registry, manifest, found, path)
    return found


def _check_parents(registry: Registry, manifest: Manifest, rows: Mapping[int, JobRow], path: Path) -> None:
    """Raise InputError if a job was given another model to work on than that of its ancestor here, unless that came
    along. Of a job that the bundle does not hold any more, the ancestors may have been computed anew since."""
    known = _ancestors(registry, rows.values())
    along = {claim.job.identity for claim in manifest.claims}
    for claim in manifest.claims:
        held = _is_held(rows[claim.job_id], claim, manifest.holder)
        above = claim.job.parent
        for taken in claim.ancestors():
            one = known.get(taken.identity)
            if (
                one is None
                or taken.identity != above
                or not (taken.identity in along or _is_model_of(taken, one, held=held))
            ):
                raise InputError(
                    f"job {claim.job.identity[:12]} was never packed with the model that it names",
                    place=str(path),
                    allowed="copy the bundle again; nothing was imported",
                )
            above = one.job.parent


def _ancestors(registry: Registry, rows: Iterable[JobRow]) -> dict[str, JobRow]:
    """The jobs above these, by identity."""
    found: dict[str, JobRow] = {}
    level = {row.parent_id for row in rows if row.parent_id is not None}
    while level:
        above = registry.catalogue.jobs_of(sorted(level))
        found |= {row.identity: row for row in above}
        level = {row.parent_id for row in above if row.parent_id is not None}
    return found


def _is_model_of(taken: ParentModel, row: JobRow, *, held: bool) -> bool:
    """Whether a job may have been packed with this model of the other."""
    if not held:
        return taken.attempt <= row.attempt
    return (taken.attempt, taken.model_hash, taken.diverged) == (row.attempt, row.model_hash, row.diverged)


def _is_held(row: JobRow, claim: Claim, holder: int) -> bool:
    """Whether the job still waits for this bundle."""
    return (row.state, row.agent_id, row.attempt) == (State.RUNNING, holder, claim.attempt)


class _Import:
    def __init__(
        self,
        home: Home,
        registry: Registry,
        folder: Path,
        bundle: BundleRow,
        rows: dict[int, JobRow],
        *,
        models: bool,
    ) -> None:
        self.home = home
        self.registry = registry
        self.results = ResultStore(home.store)
        self.folder = folder
        self.bundle = bundle
        self.rows = rows
        self.models = models
        self.failed = self.known = self.refused = 0
        self.counted: set[int] = set()

    def run(self, title: str, findings: Findings) -> Imported:
        self._bring_logs()
        for publication in findings.finished:
            self._finish(publication)
        with suppress(QsweepError, OSError):  # nothing is lost by files that stay small
            merge_all(self.home, self.registry)
        for one in findings.failed:
            if self._holds(one.claim):  # the budget that the job has here decides what follows
                ended = self.registry.queue.fail(self.bundle.id, [one.claim], one.failure, one.error, kind=one.kind)
                self.failed += len(ended)
        for found in findings.calibrated:
            self.registry.queue.calibration(
                shape=found.shape, device=found.device, build=found.build, slots=found.slots, form=found.form
            )
        if findings.began:
            self.registry.bundles.record_where_it_ran(
                self.bundle.id,
                host=_listed(one.host for one in findings.began),
                device=_listed(one.device for one in findings.began),
                build=_listed(one.torch for one in findings.began),
            )
        unkept = self.registry.results.unkept(self.counted)
        away = next(one.jobs for one in self.registry.catalogue.bundles() if one.id == self.bundle.id)
        return Imported(
            title=title,
            counted=len(self.counted),
            failed=self.failed,
            known=self.known,
            refused=self.refused,
            away=away,
            without_models=len(unkept.jobs),
            measured_by=unkept.measured_by,
        )

    def _finish(self, publication: Publication) -> None:
        """Files first, then the pointers to them, in one fenced transaction, as an agent does it."""
        names, fresh = _publications(self.bundle, publication), []
        for one in publication.results:
            if self._holds(one.claim):
                fresh.append(one)
            elif self._counts(one.claim, names):
                self.known += 1
            else:
                self.refused += 1
        if not fresh:
            return
        name = names[0]
        for kind, digest in publication.files.items():
            self.results.adopt(kind, name, read_whole(results_file(self.folder, kind, publication), digest))
        finished = [self._finished(one, name) for one in fresh]
        point("import.brought", name)
        accepted = self.registry.queue.finish(self.bundle.id, finished).jobs
        self.counted |= accepted
        self.refused += len(fresh) - len(accepted)

    def _finished(self, one: Result, publication: str) -> Finished:
        kept = self.models and one.model_hash is not None
        return Finished(
            job_id=one.claim.job_id,
            attempt=one.claim.attempt,
            publication=publication,
            model_file=self._bring_model(one) if kept else None,
            model_hash=one.model_hash if kept else None,
            diverged=one.diverged,
        )

    def _bring_model(self, one: Result) -> str:
        """Copy its model under the name of its job, attempt and content: no other import writes anything else there."""
        assert one.model_hash is not None
        name = model_name(one.claim.job.identity, one.claim.attempt, one.model_hash)
        (self.home.models / name).parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.home.models / name, read_whole(self.folder / "models" / one.model, one.model_hash))
        return name

    def _holds(self, claim: Claim) -> bool:
        """The registry's fence decides; this spares it the question."""
        return _is_held(self.rows[claim.job_id], claim, self.bundle.id)

    def _counts(self, claim: Claim, names: Sequence[str]) -> bool:
        """Whether this very result counts already, here or copied elsewhere by a compaction."""
        row = self.rows[claim.job_id]
        if row.state is not State.DONE or row.attempt != claim.attempt:
            return False
        return row.publication in names or not self.registry.results.published().isdisjoint(names)

    def _bring_logs(self) -> None:
        logs = sorted((self.folder / "logs").glob("*.log"))
        if logs:
            name = f"bundle-{self.bundle.token[:12]}.log"
            (self.home.logs / "agents").mkdir(parents=True, exist_ok=True)
            content = b"".join(read_plain(log) for log in logs)[-LOG:]
            write_whole(self.home.logs / "agents" / name, content, tidy=True)


def _publications(bundle: BundleRow, publication: Publication) -> tuple[str, str]:
    """The name that the same results always get here, and the one that they got formerly."""
    listed = "".join(f"{kind}{publication.files[kind]}" for kind in sorted(publication.files))
    content = hashlib.sha256(listed.encode()).hexdigest()
    return f"{bundle.id:06d}-{content[:DIGITS]}", f"{bundle.id:06d}-{content[:OLD_DIGITS]}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(set(names)))
