"""Reads existing runs without importing jax: their settings, records, states and differences."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxch5.config.settings import SOURCES, Config, FitConfig
from jaxch5.config.toml import flat
from jaxch5.data.pictures import Pictures, find, read_pictures
from jaxch5.data.recognition import recognize
from jaxch5.errors import CheckpointError, Jaxch5Error
from jaxch5.metrics import Best, Record, best_by, is_number, wilson_interval
from jaxch5.run.directory import RunDir, home_of, is_locked, is_run, name_of_set, open_run

# States of a run.
ENDED, TRAINING, CUT = "ended", "training", "cut off"


class PastRun(NamedTuple):
    """Holds what is known about a run without loading its network.

    Attributes:
        path: Run directory, as it was given.
        config: Configuration of the run.
        records: Record of each epoch.
        began: Time at which the run began.
        state: "ended", "training", or "cut off" before the last epoch.
    """

    path: Path
    config: Config
    records: list[Record]
    began: datetime
    state: str

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def pictures(self) -> str:
        """The name of the set from which the run takes its pictures."""
        return name_of_set(self.config.data)

    @property
    def best(self) -> Best:
        """The rule for comparing epochs, as far as it is known without importing the run's task."""
        known = [name for name in (self.config.fit.best, "accuracy") if name]
        there = (name for name in known if any(name in record for record in self.records))
        return best_by(next(there, "valid_loss"))

    @property
    def best_record(self) -> Record:
        """The record of the run's best epoch; empty if there is none."""
        place = self.best.of(self.records)
        return {} if place is None else self.records[place]


class Found(NamedTuple):
    """Holds the runs found in some folders.

    Attributes:
        runs: Runs in the order of the given paths, and within a folder from oldest to newest.
        others: Paths that are not runs.
        damaged: Reason why each damaged run cannot be read, keyed by the path of the run.
    """

    runs: list[PastRun]
    others: list[Path]
    damaged: dict[str, str]


def total_epochs(settings: FitConfig) -> int:
    """Returns the total number of epochs of all phases.

    Example:
        >>> total_epochs(FitConfig(schedule="fine_tune", epochs=6, freeze_epochs=3))
        9
    """
    frozen = settings.freeze_epochs if settings.schedule == "fine_tune" else 0
    # `epochs` is None if nothing was trained: the number was then never decided.
    return frozen + (settings.epochs or 0)


def find_runs(paths: Iterable[Path]) -> Found:
    """Finds the runs at some paths, each of which is a run or a folder of runs.

    Raises:
        OSError: A path is not a folder.
    """
    found = Found([], [], {})
    for path in paths:
        runs = []
        for one in [path] if is_run(RunDir(path)) else sorted(path.iterdir()):
            if not is_run(RunDir(one)):
                found.others.append(one)
                continue
            try:
                runs.append(read_run(one))
            except Jaxch5Error as error:
                found.damaged[str(one)] = str(error)
        found.runs.extend(sorted(runs, key=lambda run: (run.began, run.name)))
    return found


def read_run(path: Path) -> PastRun:
    """Reads a run's configuration, records, start time and state.

    Raises:
        ConfigError: There is no run, or its configuration is invalid.
        CheckpointError: The run's `metrics.jsonl` or `environment.jsonl` is damaged.
    """
    run, config = open_run(path)
    records = _lines(run.metrics_file)
    started = _lines(run.environment_file)
    began = datetime.fromtimestamp(run.config_file.stat().st_mtime).astimezone()
    if started and "time" in started[0]:
        began = datetime.fromisoformat(started[0]["time"]).astimezone()
    state = ENDED if len(records) >= total_epochs(config.fit) else CUT
    return PastRun(path, config, records, began, TRAINING if is_locked(run) else state)


def differences(runs: Sequence[PastRun]) -> dict[str, list[Any]]:
    """Returns, keyed by dotted name, each run's value of every setting in which runs differ."""
    values = [flat(run.config) for run in runs]
    return {
        key: [one[key] for one in values]
        for key in values[0]
        if any(one[key] != values[0][key] for one in values)
    }


def margins(
    runs: Sequence[PastRun],
) -> tuple[list[tuple[float, float] | None], bool | None, list[str]]:
    """Returns Wilson's interval for each accuracy, and whether all runs share one validation set.

    The second value is None if the records of the runs' pictures do not show whether they do. The
    third one says which of these records are damaged.
    """
    intervals: list[tuple[float, float] | None] = []
    validated: list[tuple[PastRun, Pictures]] = []
    damaged: list[str] = []
    for run in runs:
        pictures = None
        try:
            pictures = read_pictures(RunDir(run.path).pictures_file)
        except CheckpointError as error:
            damaged.append(str(error))
        if pictures is not None:
            validated.append((run, _held_out(pictures)))
        total = 0 if pictures is None else int(pictures.held_out.sum())
        right = run.best_record.get("accuracy") if run.best.metric == "accuracy" else None
        hits = round(right * total) if total and is_number(right) else None
        intervals.append(None if hits is None else wilson_interval(hits, total))
    agree = {_agree(*validated[0], *other) for other in validated[1:]}
    if len(validated) < len(runs):
        agree.add(None)
    same = False if False in agree else None if None in agree else True
    return intervals, same, damaged


def _held_out(pictures: Pictures) -> Pictures:
    """Returns the validation pictures alone."""
    kept = np.flatnonzero(pictures.held_out)
    return replace(
        pictures,
        references=[pictures.references[number] for number in kept.tolist()],
        labels=pictures.labels[kept],
        sizes=pictures.sizes[kept],
        held_out=pictures.held_out[kept],
        contents=pictures.contents[kept],
    )


def _agree(run: PastRun, mine: Pictures, other: PastRun, theirs: Pictures) -> bool | None:
    """Checks whether two runs' validation pictures, and their classes, are the same.

    Classes are compared by name, since the number of a class depends on the other classes.

    Args:
        run, other: The two runs.
        mine, theirs: Validation pictures of each run.

    Returns:
        None if the records do not prove that pictures with the same names are the same.
    """
    home, there = home_of(run.config.data), home_of(other.config.data)
    if home is not None and there is not None:
        found = recognize(mine, theirs, lambda number: there / theirs.references[number], home)
    elif all(
        getattr(run.config.data, name) == getattr(other.config.data, name) for name in SOURCES
    ):
        found = find(mine, theirs)
    else:
        found = recognize(mine, theirs)
    missing = found.places < 0
    if len(mine) != len(theirs) or np.any(missing | found.changed | found.relabelled):
        return False
    return None if np.any(found.unproven) else True


def _lines(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    try:
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: is damaged ({error})") from None
