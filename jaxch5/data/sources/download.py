"""Fetches linked pictures and archives, each only once.

A file is put into the user's cache folder, under a name made from its address, only once it is
complete and has been checked to be of the expected kind. An address that does not answer causes an
error within seconds.
"""

from __future__ import annotations

import hashlib
import re
import ssl
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import platformdirs
from rich.console import Console

from jaxch5.data.formats import format_of
from jaxch5.data.sources.content import head_of, kind_of
from jaxch5.data.sources.unpack import unpack
from jaxch5.errors import DataError
from jaxch5.util.files import making, sha256_of
from jaxch5.util.text import counted, printable, progress_bar

CONNECT_SECONDS, READ_SECONDS = 4.0, 10.0
ATTEMPTS = 3
PARALLEL = 16
# Statuses of a server that asks for patience; fetching in parallel may be what makes it do so.
BUSY = (408, 429)
# Statuses of a server or proxy that asks who is there; they say nothing about the file.
ASKS_WHO = (401, 407)
# How long to wait before asking such a server again: by default, and at most if it says how long.
BUSY_SECONDS, LONGEST_SECONDS = 5.0, 60
# This many failures are enough to show what is wrong. If the server is gone, trying all links could
# take hours.
FAILURES_SHOWN = 5


class DeadLink(DataError):
    """An address does not lead to a picture, and will not if it is tried again."""


class Fetched(NamedTuple):
    """Holds what became of links.

    Attributes:
        files: The path of each link's file, keyed by link; a dead link has no file there.
        dead: The reason for each dead link.
    """

    files: dict[str, Path]
    dead: dict[str, str]


def cache_folder(name: str) -> Path:
    """Returns one of the folders for fetched files, and makes it if needed.

    Raises:
        DataError: The folder cannot be made.
    """
    folder = platformdirs.user_cache_path("jaxch5") / "fetched" / name
    make_folder(folder)
    return folder


def make_folder(folder: Path) -> None:
    """Makes a folder, unless it exists.

    Raises:
        DataError: The folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be made: {error.strerror}") from None


def fetch(address: str, file: Path) -> None:
    """Fetches the content at an address and writes it into a file.

    Args:
        address: Address that fsspec understands, such as `https://...`.
        file: Path to write to; an existing file is overwritten.

    Raises:
        DeadLink: The address is not valid, or the server says that it leads nowhere.
        DataError: The address contains `::`, or cannot be fetched (in up to three attempts).
    """
    import aiohttp
    import fsspec

    if "::" in address:
        # fsspec would take what follows the :: for another file system, and some of those run code.
        raise DataError("an address with :: is refused")
    options = {}
    if address.lower().startswith("http"):
        limits = aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)
        # Proxies are taken from environment variables.
        options = {"client_kwargs": {"timeout": limits, "trust_env": True}}
    has_begun = False
    for attempt in range(1, ATTEMPTS + 1):
        wait = 0.5 * attempt
        try:
            filesystem, path = fsspec.url_to_fs(address, **options)
            filesystem.get_file(path, str(file))
            return
        except FileNotFoundError:
            raise DeadLink("there is no such file") from None
        except aiohttp.ClientResponseError as error:
            # A server in trouble may recover; one that refuses will refuse again.
            reason = f"the server answered {error.status} {error.message}"
            if error.status in ASKS_WHO:
                raise DataError(reason) from None
            if error.status < 500 and error.status not in BUSY:
                raise DeadLink(reason) from None
            told = error.headers.get("Retry-After", "") if error.headers else ""
            if told.isdecimal():
                wait = min(int(told), LONGEST_SECONDS)
            elif error.status in BUSY:
                wait = BUSY_SECONDS * attempt
        except (aiohttp.ClientConnectorError, ConnectionError, TimeoutError) as error:
            reason = f"no answer ({str(error) or type(error).__name__})"
            # The server has had time to answer; if it is not there, another attempt will not help.
            # But if part of the file has arrived, in this attempt or an earlier one, it is there.
            has_begun |= file.exists() and file.stat().st_size > 0
            if not has_begun:
                raise DataError(reason) from None
        except ImportError as error:
            # fsspec lacks a library for this kind of address.
            raise DataError(str(error)) from None
        except ValueError as error:
            # fsspec does not know this kind of address, or cannot parse it.
            raise DeadLink(printable(str(error))) from None
        except Exception as error:
            # Each file system raises its own types of exceptions.
            reason = f"cannot be fetched ({str(error) or type(error).__name__})"
        if attempt < ATTEMPTS:
            time.sleep(wait)
    raise DataError(reason)


def fetch_links(
    links: Iterable[str], folder: Path | None = None, console: Console | None = None
) -> Fetched:
    """Fetches pictures in parallel, except those that were fetched before.

    Each file is checked before it is kept, since a server may answer with a web page. Such links,
    and others that lead to no picture, are dead; they are tried again the next time.

    Args:
        links: Addresses that fsspec understands, such as `https://...`.
        folder: Folder for the files; None means the user's cache folder.
        console: Where the progress bar is drawn; None means standard error.

    Raises:
        DataError: The folder cannot be made, or some links cannot be fetched although they may not
            be dead, since a server does not answer, for example; the message names up to five of
            them. What was fetched is kept for next time.
    """
    folder = cache_folder("links") if folder is None else folder
    files = {link: folder / file_name_for(link) for link in links}
    # Files in the folder are checked too: earlier versions kept whatever they received.
    missing = [link for link, file in files.items() if format_of(head_of(file)) is None]
    if not missing:
        return Fetched(files, {})
    make_folder(folder)
    dead: dict[str, str] = {}
    failures: dict[str, str] = {}
    with progress_bar(console) as progress, ThreadPoolExecutor(PARALLEL) as pool:
        task = progress.add_task(f"fetching {counted(len(missing), 'picture')}", total=len(missing))
        running = {pool.submit(_fetch_link, link, files[link]): link for link in missing}
        for done in as_completed(running):
            progress.advance(task)
            if error := done.exception():
                kind = dead if isinstance(error, DeadLink) else failures
                kind[running[done]] = str(error) or type(error).__name__
            if len(failures) == FAILURES_SHOWN:
                pool.shutdown(wait=False, cancel_futures=True)
                break
    if failures:
        shown = "; ".join(f"{link}: {reason}" for link, reason in failures.items())
        raise DataError(
            f"{shown} ({counted(len(missing), 'link')} had to be fetched; what was fetched is "
            "kept; fix the links named here or remove their rows)"
        )
    return Fetched(files, {link: dead[link] for link in missing if link in dead})


def _fetch_link(link: str, file: Path) -> None:
    try:
        with making(file) as scratch:
            fetch(link, scratch)
            begin = head_of(scratch)
            if format_of(begin) is None:
                raise DeadLink(f"the answer is {kind_of(begin)}, not a picture")
    except OSError as error:
        raise DataError(f"{file}: cannot be written: {error.strerror}") from None


def fetch_archive(url: str, sha256: str | None = None, folder: Path | None = None) -> Path:
    """Fetches an archive of pictures and unpacks it; returns the folder.

    An archive with a member that would be written outside of the folder is refused.

    Args:
        url: Address of a zip or tar file.
        sha256: Checksum of the file, in hexadecimal; None means that it is not checked.
        folder: Folder for unpacked archives; None means the user's cache folder.

    Raises:
        DataError: The file cannot be fetched or unpacked, or has a different checksum.
    """
    folder = cache_folder("archives") if folder is None else folder
    # An archive unpacked without a check must not pass for one whose checksum is given now.
    unpacked = folder / Path(file_name_for(f"{url}#{sha256 or ''}")).stem
    if unpacked.is_dir():
        return unpacked
    make_folder(folder)
    try:
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder) as scratch:
            _fetch_archive(url, sha256, Path(scratch) / file_name_for(url), unpacked)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written to: {error.strerror}") from None
    return unpacked


def _fetch_archive(url: str, sha256: str | None, file: Path, unpacked: Path) -> None:
    try:
        fetch(url, file)
    except DataError as error:
        raise DataError(
            f"{url}: {error}; for a file that you fetched yourself, use --data.path FILE"
        ) from None
    if sha256 and sha256_of(file) != sha256.lower():
        raise DataError(f"{url}: its content does not have the SHA-256 given")
    unpack(file, unpacked, url)


def reachable(url: str) -> bool:
    """Checks whether an address answers at all, within a few seconds."""
    try:
        urlopen(Request(url, method="HEAD"), timeout=CONNECT_SECONDS).close()
    except (HTTPError, HTTPException):
        return True
    except (OSError, ValueError) as error:
        # A server that shows an unexpected certificate does answer.
        return isinstance(error, URLError) and isinstance(error.reason, ssl.SSLError)
    return True


def file_name_for(address: str) -> str:
    """Returns a file name that no two addresses share, with the file extension of the address."""
    suffixes: list[str] = []
    # An address that is not valid has a name too; fetching it says what is wrong.
    with suppress(ValueError):
        end = PurePosixPath(urlsplit(address).path).name
        suffixes = re.findall(r"\.[A-Za-z0-9]{1,8}", end)[-1:]
    content = address.encode(errors="surrogateescape")
    return hashlib.sha256(content).hexdigest()[:32] + "".join(suffixes)
