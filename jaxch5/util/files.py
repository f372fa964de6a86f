"""Writes files atomically, and writes JSON that every reader accepts."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jaxch5.errors import CheckpointError

# Written into the metadata of figures that commands save, so that they are not mistaken for data.
DRAWN_BY = "jaxch5"


@contextmanager
def making(path: Path, alone: bool = False) -> Iterator[Path]:
    """Yields a temporary path, and moves the file or folder made there into place if all goes well.

    A reader sees either the old version or the complete new one. An error leaves nothing behind.

    Args:
        path: Final path of the file or folder; the temporary path is in the same folder.
        alone: Whether nobody else writes to `path`. If so, the temporary path is always the same,
            so that what a killed process left there is overwritten.

    Raises:
        OSError: The file or folder cannot be moved into place.
    """
    writer = "" if alone else f".{os.getpid()}-{threading.get_ident()}"
    scratch = path.with_name(f".{path.name}{writer}")
    try:
        yield scratch
        scratch.replace(path)
    finally:
        with suppress(OSError):
            shutil.rmtree(scratch) if scratch.is_dir() else scratch.unlink(missing_ok=True)


def from_here(path: Path) -> Path:
    """Returns a path, made relative to the working directory if it is inside that directory.

    Example:
        >>> from_here(Path.cwd() / "runs"), from_here(Path("/elsewhere"))
        (PosixPath('runs'), PosixPath('/elsewhere'))
    """
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def sha256_of(file: Path) -> str:
    """Returns a file's SHA-256, in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def write_file(path: Path, content: bytes) -> None:
    """Writes a file atomically: a reader sees the old content or the new.

    Standard output, a pipe or a device is written to directly.

    Raises:
        CheckpointError: The file cannot be written.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "model"
        >>> write_file(file, b"old"), write_file(file, b"new"), file.read_bytes()
        (None, None, b'new')
    """
    try:
        if is_standard_output(path):
            print(end="", flush=True)  # what was printed before comes first
            # If it is a file, opening that again would not move the place at which others write.
            with open(1, "wb", closefd=False) as opened:
                opened.write(content)
            return
        if path.exists() and not path.is_file():
            path.write_bytes(content)
            return
        with making(path) as scratch:
            scratch.write_bytes(content)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error.strerror}") from None


def is_standard_output(path: Path) -> bool:
    """Checks whether a path, such as /dev/stdout, names what this process prints to.

    Example:
        >>> is_standard_output(Path("/dev/stdout")), is_standard_output(Path("model.safetensors"))
        (True, False)
    """
    return path.resolve() == Path("/dev/stdout").resolve()


def unused(path: Path, suffix: str = "") -> Path:
    """Returns a path with a suffix; if that path exists, a number (2 or more) precedes the suffix.

    Example:
        >>> unused(Path("no such folder/suspects"), ".csv").name
        'suspects.csv'
    """
    candidate, number = path.with_name(path.name + suffix), 2
    while candidate.exists():
        candidate, number = path.with_name(f"{path.name}-{number}{suffix}"), number + 1
    return candidate


def json_value(value: Any) -> Any:
    """Replaces numbers that are not finite, which JSON does not have, with None.

    Example:
        >>> json_value({"losses": [0.5, float("nan")], "accuracy": 1})
        {'losses': [0.5, None], 'accuracy': 1}
    """
    if isinstance(value, dict):
        return {key: json_value(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(value: Any) -> str:
    """Writes a value as one line of JSON; see `json_value`.

    Example:
        >>> to_json({"loss": float("inf")})
        '{"loss": null}'
    """
    return json.dumps(json_value(value), allow_nan=False)
