"""Export to TensorBoard: curves and the HParams table, for `tensorboard --logdir DIR`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from google.protobuf.struct_pb2 import Value
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.hparams.api_pb2 import Status
from tensorboard.plugins.hparams.metadata import (
    PLUGIN_NAME,
    SESSION_END_INFO_TAG,
    SESSION_START_INFO_TAG,
)
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from qsweep.reports.trackers.run import TrackedRun


def write(runs: Iterable[TrackedRun], title: str, folder: Path) -> None:
    """One folder a job, of one event file. Curves are `epoch/…` by epoch; metrics stand in the HParams table."""
    for run in runs:
        writer = EventFileWriter(str(folder / run.job))
        try:
            for event in _events(run, title):
                writer.add_event(event)
        finally:
            writer.close()


def _events(run: TrackedRun, title: str) -> Iterable[Event]:
    started = run.finished_at - run.seconds
    parameters = {name: _value(value) for name, value in {"sweep": title, "kind": run.kind, **run.parameters}.items()}
    beginning = SessionStartInfo(hparams=parameters, group_name=run.job, start_time_secs=started)
    yield _session(SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=beginning), started)
    for epoch, row in run.history:
        yield _scalars({f"epoch/{name}": value for name, value in row.items()}, epoch, run.finished_at)
    last = run.history[-1][0] if run.history else 0
    yield _scalars(run.metrics, last, run.finished_at)
    end = SessionEndInfo(status=Status.Value("STATUS_SUCCESS"), end_time_secs=run.finished_at)
    yield _session(SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=end), run.finished_at)


def _scalars(values: Mapping[str, float], step: int, at: float) -> Event:
    listed = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
    return Event(wall_time=at, step=step, summary=Summary(value=listed))


def _session(tag: str, content: Any, at: float) -> Event:
    """An event for the HParams plug-in, whose own helpers would import TensorFlow."""
    data = SummaryMetadata.PluginData(plugin_name=PLUGIN_NAME, content=content.SerializeToString())
    value = Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=data))
    return Event(wall_time=at, summary=Summary(value=[value]))


def _value(value: str | int | float | bool) -> Value:
    if isinstance(value, bool):
        return Value(bool_value=value)
    return Value(string_value=value) if isinstance(value, str) else Value(number_value=value)
