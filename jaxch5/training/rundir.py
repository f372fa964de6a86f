"""The run directory: what a run leaves on disk, and where.

config.toml      the complete configuration, enough to run it again
metrics.jsonl    one line an epoch
checkpoints/     the last state and the best
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from jaxch5.config import Config, from_toml, to_toml
from jaxch5.errors import CheckpointError, ConfigError

Record = dict[str, float | int]


class RunDir(NamedTuple):
    """Paths of a run."""

    path: Path

    @property
    def config_file(self) -> Path:
        return self.path / "config.toml"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"


def create_run(config: Config, path: Path | None = None) -> RunDir:
    """Makes a run directory and writes the configuration into it.

    Args:
        config: what the run will do.
        path: the directory, new or empty; None makes `runs/DATE-NAME` in the working directory.

    Raises:
        ConfigError: `path` holds something already.
        CheckpointError: the directory cannot be made or written.
    """
    if path is None:
        path = _unused(Path("runs") / f"{datetime.now():%Y-%m-%d_%H-%M-%S}-{_name(config)}")
    run = RunDir(path.expanduser().absolute())
    if run.config_file.exists():
        raise ConfigError(
            f"{path}: holds a run already; go on with --resume {path} or name another"
        )
    try:
        if run.path.is_dir() and any(run.path.iterdir()):
            raise ConfigError(f"{path}: is not empty; name a new directory for the run")
        run.checkpoints.mkdir(parents=True)
        run.config_file.write_text(to_toml(config), encoding="utf-8")
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be written ({error.strerror}); name another directory with --workdir"
        ) from None
    return run


def open_run(path: Path) -> tuple[RunDir, Config]:
    """A run that exists, and its configuration.

    Raises:
        ConfigError: there is no run at `path`, or its configuration cannot be used.
    """
    run = RunDir(path.expanduser().absolute())
    if not run.config_file.is_file():
        raise ConfigError(f"{path}: is no run directory: it holds no {run.config_file.name}")
    return run, from_toml(run.config_file)


def discard_run(run: RunDir) -> None:
    """Removes a run from which nothing was learned."""
    shutil.rmtree(run.path, ignore_errors=True)


def write_metrics(run: RunDir, records: Sequence[Record]) -> None:
    """Writes `metrics.jsonl`, a line an epoch, in one piece: a reader sees the old or the new.

    Raises:
        CheckpointError: the file cannot be written.
    """
    scratch = run.metrics_file.with_suffix(".tmp")
    try:
        scratch.write_text("".join(json.dumps(record) + "\n" for record in records))
        scratch.replace(run.metrics_file)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise CheckpointError(f"{run.metrics_file}: cannot be written: {error.strerror}") from None


def _name(config: Config) -> str:
    folder = config.data.path
    return f"{folder.name if folder else 'digits'}-{config.model.arch}"


def _unused(path: Path) -> Path:
    candidate, number = path, 2
    while candidate.exists():
        candidate, number = path.with_name(f"{path.name}-{number}"), number + 1
    return candidate
