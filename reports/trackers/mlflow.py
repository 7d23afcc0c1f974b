"""Export to MLflow: an experiment in a SQLite file, for `mlflow ui --backend-store-uri sqlite:///…/mlflow.db`."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from qsweep.reports.trackers.run import TrackedRun

METRICS_A_CALL = 1000
"""MLflow's limit."""


def write(runs: Iterable[TrackedRun], title: str, folder: Path) -> None:
    """One MLflow run a job, in an experiment called as the sweep's variant."""
    logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of the tables that it makes
    client = MlflowClient(tracking_uri=f"sqlite:///{folder.absolute() / 'mlflow.db'}")
    experiment = client.create_experiment(title, artifact_location=(folder.absolute() / "artifacts").as_uri())
    for run in runs:
        end = round(1000 * run.finished_at)
        started = client.create_run(
            experiment, start_time=round(1000 * (run.finished_at - run.seconds)), run_name=run.name, tags=dict(run.tags)
        )
        metrics = [Metric(name, value, end, 0) for name, value in run.metrics.items()]
        metrics += [
            Metric(f"epoch/{name}", value, end, epoch) for epoch, row in run.history for name, value in row.items()
        ]
        parameters = [Param(name, str(value)) for name, value in run.parameters.items()]
        client.log_batch(started.info.run_id, params=parameters, metrics=metrics[:METRICS_A_CALL])
        for start in range(METRICS_A_CALL, len(metrics), METRICS_A_CALL):
            client.log_batch(started.info.run_id, metrics=metrics[start : start + METRICS_A_CALL])
        client.set_terminated(started.info.run_id, end_time=end)
