"""Manages the run directory: the files that a run writes.

config.toml        the complete configuration, with which the run can be repeated
metrics.jsonl      one line per epoch
pictures.jsonl.gz  the pictures for training and for validation
skipped.jsonl      pictures left out because they cannot be read, if there are any
cleaned.json       the label corrections, if `jaxch5 clean` wrote the labels
environment.jsonl  versions, machine and device: one line for each start and resume
report.html        the report: which network was trained on which pictures, and the results
checkpoints/       the last two states of training and the best one
tensorboard/       event files, if they were requested
profile/           traces of some steps, if they were requested
lock               locked by the process that is writing to the directory
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from jaxch5.config.settings import SOURCES, Config, DataConfig, from_toml
from jaxch5.config.toml import to_toml
from jaxch5.data.sources.table import is_table
from jaxch5.errors import CheckpointError, ConfigError
from jaxch5.metrics import Record
from jaxch5.util.address import LISTED, expanded, is_address
from jaxch5.util.files import to_json, unused, write_file
from jaxch5.util.text import plain_console, print_line

# File of `jaxch5 transfer_profile`, whose folder has no network but otherwise looks like a run.
PROFILE_RESULTS = "profile.jsonl"


class RunDir(NamedTuple):
    """Holds the paths of a run."""

    path: Path

    @property
    def config_file(self) -> Path:
        return self.path / "config.toml"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def pictures_file(self) -> Path:
        return self.path / "pictures.jsonl.gz"

    @property
    def skipped_file(self) -> Path:
        return self.path / "skipped.jsonl"

    @property
    def cleaned_file(self) -> Path:
        return self.path / "cleaned.json"

    @property
    def report_file(self) -> Path:
        return self.path / "report.html"

    @property
    def environment_file(self) -> Path:
        return self.path / "environment.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def profile(self) -> Path:
        return self.path / "profile"

    @property
    def lock_file(self) -> Path:
        return self.path / "lock"


def create_run(config: Config, path: Path | None = None) -> RunDir:
    """Creates a run directory and writes the configuration into it.

    Args:
        config: Configuration of the run.
        path: Directory, new or empty; None creates `runs/DATE-NAME` in the working directory.

    Raises:
        ConfigError: `path` is not empty.
        CheckpointError: The directory cannot be created or written.
    """
    if path is None:
        path = Path("runs") / f"{datetime.now():%Y-%m-%d_%H-%M-%S}-{_name(config)}"
        # A folder that cannot be created is reported below.
        with suppress(OSError):
            path = _claimed(path)
    run = RunDir(expanded(path).absolute())
    if run.config_file.exists():
        raise ConfigError(
            f"{path}: already holds a run; resume it with jaxch5 train --resume {path}, "
            "or name another directory"
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


def _claimed(path: Path) -> Path:
    """Creates a folder that no other run has, even one that begins in the same second."""
    while True:
        free = unused(path)
        free.parent.mkdir(parents=True, exist_ok=True)
        try:
            free.mkdir()
        except FileExistsError:
            continue
        return free


def open_run(path: Path) -> tuple[RunDir, Config]:
    """Opens an existing run, and returns its paths and its configuration.

    Raises:
        ConfigError: There is no run at `path`, or its configuration is invalid.
    """
    run = RunDir(expanded(path).absolute())
    if not run.path.exists():
        raise ConfigError(f"{path}: there is no such run; {LISTED}")
    if not run.config_file.is_file():
        raise ConfigError(f"{path}: is not a run directory: it has no {run.config_file.name}")
    return run, from_toml(run.config_file, recorded=True)


def name_of_set(settings: DataConfig) -> str:
    """Returns the name of the set from which settings take the pictures.

    Example:
        >>> name_of_set(DataConfig(archive="https://example.org/pets.zip?download=1"))
        'pets.zip'
    """
    place = next((str(one) for name in SOURCES if (one := getattr(settings, name))), "digits")
    return PurePosixPath(urlsplit(place).path if is_address(place) else place).name


def is_run(folder: RunDir) -> bool:
    """Checks whether a folder is a run, and not one that `suspects` or `transfer_profile` wrote.

    A run may have lost its checkpoints, which need much space.
    """
    written = folder.checkpoints, folder.environment_file, folder.metrics_file
    if not folder.config_file.is_file() or (folder.path / PROFILE_RESULTS).exists():
        return False
    return any(path.exists() for path in written)


def home_of(settings: DataConfig) -> Path | None:
    """Returns the folder that the pictures' names are relative to; None if they are not files.

    Args:
        settings: Settings of the run that recorded the names.
    """
    path = settings.path
    if not isinstance(path, Path):
        return None
    if is_table(path):
        return settings.root or path.parent
    return path if path.is_dir() else None


# What `flock` says where a file system, such as some network drives, has no locks.
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
# The runs that this process has locked.
_locked: set[Path] = set()


@contextmanager
def locked(run: RunDir) -> Iterator[None]:
    """Locks a run against other writers; the lock is released if this process dies.

    Where the file system has no locks, a line on standard error says so.

    Raises:
        CheckpointError: The lock is held, by another process or by this one, or the run cannot be
            written.
    """
    path = run.path.resolve()
    try:
        file = run.lock_file.open("ab")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        holder = run.lock_file.read_text(encoding="utf-8").strip() or "another process"
        raise CheckpointError(
            f"{run.path}: is being written by {holder}; wait for it, or stop it"
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise CheckpointError(
                f"{run.path}: cannot be written ({error.strerror}); use another directory"
            ) from None
        print_line(
            plain_console(stderr=True),
            f"{run.path}: cannot be locked here ({error.strerror}), so let only one process train "
            "into it",
        )
    with file:
        # Training goes on while the disk is full.
        with suppress(OSError):
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"process {os.getpid()} on {platform.node()}".encode())
        _locked.add(path)
        try:
            yield
        finally:
            _locked.remove(path)


@contextmanager
def locked_once(run: RunDir) -> Iterator[None]:
    """Locks a run as `locked` does, unless this process has locked it already.

    Raises:
        CheckpointError: Another process holds the lock, or the run cannot be written.
    """
    with nullcontext() if run.path.resolve() in _locked else locked(run):
        yield


def is_locked(run: RunDir) -> bool:
    """Checks whether a process is writing into a run, and so holds its lock."""
    try:
        with run.lock_file.open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def write_config(run: RunDir, config: Config) -> None:
    """Writes `config.toml` atomically.

    Raises:
        CheckpointError: The file cannot be written.
    """
    write_file(run.config_file, to_toml(config).encode("utf-8"))


def add_environment(run: RunDir, environment: Mapping[str, Any]) -> None:
    """Adds a line to `environment.jsonl`.

    Raises:
        CheckpointError: The file cannot be written.
    """
    file = run.environment_file
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    write_file(file, f"{before}{to_json(environment)}\n".encode())


def discard_run(run: RunDir) -> None:
    """Removes the directory of a run that learned nothing."""
    shutil.rmtree(run.path, ignore_errors=True)


def write_metrics(run: RunDir, records: Sequence[Record]) -> None:
    """Writes a line per epoch to `metrics.jsonl`, atomically: readers see the old or the new file.

    Raises:
        CheckpointError: The file cannot be written.
    """
    _write_lines(run.metrics_file, records)


def write_skipped(run: RunDir, reasons: Mapping[str, str]) -> None:
    """Writes `skipped.jsonl`: the reference of each picture that was left out, and the reason.

    If none was left out, no file is written.

    Raises:
        CheckpointError: The file cannot be written.
    """
    if not reasons:
        return
    lines = [{"reference": name, "reason": reason} for name, reason in reasons.items()]
    _write_lines(run.skipped_file, lines)


def read_skipped(run: RunDir) -> dict[str, str]:
    """Reads what `write_skipped` wrote; returns an empty dictionary if there is no file."""
    if not run.skipped_file.exists():
        return {}
    lines = map(json.loads, run.skipped_file.read_text(encoding="utf-8").splitlines())
    return {line["reference"]: line["reason"] for line in lines}


def _write_lines(file: Path, lines: Iterable[Mapping[str, object]]) -> None:
    write_file(file, "".join(to_json(line) + "\n" for line in lines).encode("utf-8"))


def _name(config: Config) -> str:
    # A prepared set's version and an import path have a colon, which some file systems forbid.
    return f"{name_of_set(config.data)}-{config.model.arch}".replace(":", ".")
