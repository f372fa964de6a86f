"""Reads files in a folder that is local or at an address, and writes them atomically.

Addresses are those that fsspec understands, such as `s3://bucket/folder` and `gs://bucket/folder`.
The library for each kind of address takes the account and the endpoint from its own settings
(`AWS_PROFILE`, `AWS_ENDPOINT_URL` and so on).
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from jaxch5.data.sources.download import CONNECT_SECONDS, cache_folder
from jaxch5.errors import DataError
from jaxch5.util.address import expanded, is_address
from jaxch5.util.files import making, sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fsspec import AbstractFileSystem

# The limit is this high because Google's library takes 15 seconds to find that it has no
# credentials.
ANSWER_SECONDS = 20.0

ResultT = TypeVar("ResultT")


class Store:
    """Reads and writes the files of one folder, by name.

    Args:
        place: Path of the folder, or its address. The folder need not exist before it is written
            to, but a bucket must.
    """

    def __init__(self, place: str | os.PathLike[str]) -> None:
        self.name = os.fspath(place).rstrip("/") or "/"
        self._folder = None if is_address(self.name) else expanded(Path(self.name))

    def read(self, name: str) -> bytes | None:
        """Returns a small file's content; None if there is no such file.

        Raises:
            DataError: The address does not answer, or the file cannot be read.
        """
        if self._folder is not None:
            with _said(self.where(name)), suppress(FileNotFoundError, NotADirectoryError):
                return (self._folder / name).read_bytes()
            return None

        def content() -> bytes | None:
            filesystem, path = self._remote(name, at_once=True)
            try:
                return filesystem.cat_file(path)
            except FileNotFoundError as error:
                # S3's message says this if the bucket is missing; if only the file is missing, the
                # message is just its path.
                if "bucket does not exist" in str(error):
                    raise
                return None

        with _said(self.name):
            return _within(ANSWER_SECONDS, content)

    def size(self, name: str) -> int | None:
        """Returns a file's size in bytes; None if there is no such file."""
        with _said(self.where(name)), suppress(FileNotFoundError):
            if self._folder is not None:
                return (self._folder / name).stat().st_size
            filesystem, path = self._remote(name)
            return filesystem.size(path)
        return None

    def write(self, name: str, content: bytes) -> None:
        """Writes a small file.

        Raises:
            DataError: The file cannot be written.
        """
        with self.making(name) as file:
            file.write_bytes(content)

    @contextmanager
    def making(self, name: str) -> Iterator[Path]:
        """Yields the path of a local file to write, and then moves or uploads it if all went well.

        Raises:
            DataError: The file cannot be written.
        """
        if self._folder is None:
            with tempfile.TemporaryDirectory(prefix="jaxch5-") as scratch:
                file = Path(scratch) / name
                yield file
                with _said(self.where(name)):
                    filesystem, path = self._remote(name)
                    filesystem.put_file(str(file), path)
            return
        with _said(self.name):
            self._folder.mkdir(parents=True, exist_ok=True)
        with _said(self.where(name)), making(self._folder / name, alone=True) as file:
            yield file

    def fetch(self, name: str, sha256: str) -> Path:
        """Returns the local path of a file; a remote file is copied into the cache, once.

        Raises:
            DataError: A remote file cannot be fetched, or does not match the checksum.
        """
        if self._folder is not None:
            return self._folder / name
        # A copy is named after its checksum, so it cannot be stale or belong to another set.
        copy = cache_folder("packed") / f"{sha256}{Path(name).suffix}"
        if copy.exists():
            return copy
        with _said(self.where(name)), making(copy) as scratch:
            filesystem, path = self._remote(name)
            filesystem.get_file(path, str(scratch))
            if sha256_of(scratch) != sha256:
                raise DataError(
                    f"{self.where(name)}: is not the file that was packed (its SHA-256 "
                    "differs); remove it and run jaxch5 pack again"
                )
        return copy

    def where(self, name: str) -> str:
        """Returns a file's full path or address."""
        return f"{self.name}/{name}"

    @property
    def remote(self) -> bool:
        return self._folder is None

    def _remote(self, name: str, at_once: bool = False) -> tuple[AbstractFileSystem, str]:
        """Returns a file's file system and its path there; with `at_once`, S3 must answer soon."""
        import fsspec

        options: dict[str, Any] = {}
        if at_once and self.name.startswith(("s3://", "s3a://")):
            configured = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
            options["config_kwargs"] = {
                **configured,
                "connect_timeout": CONNECT_SECONDS,
                "retries": {"max_attempts": 1},
            }
        try:
            return fsspec.url_to_fs(self.where(name), **options)
        except ImportError as error:
            # The extra `remote` installs the libraries for S3 and Google; for other addresses,
            # fsspec's error names the library.
            known = self.name.startswith(("s3://", "s3a://", "gs://", "gcs://"))
            needs = "python -m pip install -e '.[remote]' in jaxch5's folder" if known else error
            raise DataError(f"{self.name}: needs a library for such addresses: {needs}") from None


@contextmanager
def _said(where: str) -> Iterator[None]:
    """Turns any error raised within it into a DataError with a one-line message."""
    try:
        yield
    except DataError:
        raise
    except TimeoutError:
        raise DataError(f"{where}: no answer within {ANSWER_SECONDS:g} seconds") from None
    except Exception as error:
        # Each library has its own exception types.
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(f"{where}: {reason.splitlines()[0]}") from None


def _within(seconds: float, ask: Callable[[], ResultT]) -> ResultT:
    """Returns what `ask` returns, or raises TimeoutError; by themselves, libraries wait minutes."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.extend((ask(), None))
        except Exception as error:
            outcome.extend((None, error))

    # When the process ends, it does not wait for a daemon thread.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError
    answer, error = outcome
    if error is not None:
        raise error
    return answer
