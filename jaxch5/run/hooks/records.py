"""Hooks that record training in a learner's recorder and in `metrics.jsonl`."""

from __future__ import annotations

from functools import partial

from jaxch5.data.block import Data
from jaxch5.metrics import Record
from jaxch5.run.attempts import Attempts
from jaxch5.run.directory import RunDir, write_metrics
from jaxch5.run.pictures import record_pictures
from jaxch5.run.recorder import Recorder
from jaxch5.training.events import Begin, Epoch, Event, Hook, Step


def record_into(recorder: Recorder) -> Hook:
    """Returns a hook that fills a recorder."""

    def record(event: Event) -> None:
        if not isinstance(event, (Step, Epoch)):
            return
        for step in event.read:
            recorder.losses.append(step.loss)
            recorder.lrs.append(list(step.rates))
            recorder.moms.append(step.momentum)
        if isinstance(event, Epoch):
            # The recorder gets a copy, since later hooks may alter the event's record.
            recorder.records.append(dict(event.record))
            recorder.ends.append(len(recorder.losses))

    return record


def write_records(
    run: RunDir, data: Data, restored: bool, records: list[Record], attempt: Attempts
) -> Hook:
    """Returns a hook that writes the record of a run's pictures, and the metrics of each epoch.

    Args:
        run: Run to write into.
        data: Pictures of the run.
        restored: Whether the run is resumed.
        records: Records of the epochs, which another hook extends before this hook is called.
        attempt: Wrapper that calls the functions that write, and records their failures.
    """
    pictures = partial(attempt, "pictures", record_pictures, run, data, restored)

    def write(event: Event) -> None:
        if isinstance(event, Begin) or (isinstance(event, Epoch) and "pictures" in attempt.failed):
            pictures()
        if isinstance(event, Epoch):
            attempt("metrics", write_metrics, run, records)

    return write
