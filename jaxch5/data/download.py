"""What is fetched from elsewhere: links to pictures, and archives. Each is fetched once.

Everything goes into the user's cache folder under a name made from its address, in one piece and
once it was looked at: what is there is complete, and is what was asked for. Nobody waits long for
an address that does not answer.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import socket
import tempfile
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import platformdirs
from rich.console import Console

from jaxch5.data.content import FIRST_BYTES, kind_of
from jaxch5.data.decode import decode
from jaxch5.data.formats import format_of
from jaxch5.data.unpack import unpack
from jaxch5.errors import DataError
from jaxch5.libraries import logging_from
from jaxch5.network import CONNECT_SECONDS
from jaxch5.text import counted, progress_bar

READ_SECONDS = 10.0
ATTEMPTS = 3
PARALLEL = 16
# Enough to see what is wrong with a list; a list whose server is gone would take hours.
FAILURES_SHOWN = 5


def cache_folder() -> Path:
    """Where fetched files lie."""
    return platformdirs.user_cache_path("jaxch5") / "fetched"


def is_link(reference: str) -> bool:
    """Whether a reference is an address and not a path.

    Example:
        >>> is_link("https://example.org/a.jpg"), is_link("photos/a.jpg")
        (True, False)
    """
    return re.match(r"[a-z][a-z0-9+.-]*://", reference, re.IGNORECASE) is not None


def fetch_links(
    links: Iterable[str], folder: Path | None = None, console: Console | None = None
) -> Mapping[str, Path]:
    """Fetches pictures in parallel; those that are there already are not asked for again.

    What comes is looked at before it is kept: a server may answer a page, or only a part.

    Args:
        links: addresses that fsspec understands, `http(s)://` among them.
        folder: where the files are kept; None is the user's cache folder.
        console: where the progress bar is drawn; None is standard error.

    Returns:
        Of each link, its file.

    Raises:
        DataError: some cannot be fetched, after three attempts where an answer may yet come, or
            are no pictures; it names them. What was fetched stays for the next time.
    """
    folder = cache_folder() / "links" if folder is None else folder
    files = {link: folder / file_name_for(link) for link in links}
    missing = [link for link, file in files.items() if not _is_kept(file)]
    if not missing:
        return files
    _make(folder)
    failures: dict[str, str] = {}
    with progress_bar(console) as progress, ThreadPoolExecutor(PARALLEL) as pool:
        task = progress.add_task(f"fetching {counted(len(missing), 'picture')}", total=len(missing))
        running = {pool.submit(_fetch_link, link, files[link]): link for link in missing}
        for done in as_completed(running):
            progress.advance(task)
            if error := done.exception():
                failures[running[done]] = str(error) or type(error).__name__
            if len(failures) == FAILURES_SHOWN:
                pool.shutdown(wait=False, cancel_futures=True)
                break
    if failures:
        shown = "; ".join(f"{link}: {reason}" for link, reason in failures.items())
        raise DataError(
            f"{shown} (of {counted(len(missing), 'link')} to fetch; what was fetched is kept; "
            "fix the links or remove their rows)"
        )
    return files


def _fetch_link(link: str, file: Path) -> None:
    import aiohttp
    import fsspec

    if "::" in link:
        # fsspec would take what stands behind it for another file system, some of which run code.
        raise DataError("an address with :: is refused")
    options = {}
    if link.lower().startswith("http"):
        limits = aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)
        options = {"client_kwargs": {"timeout": limits}}
    filesystem, path = fsspec.url_to_fs(link, **options)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            content = filesystem.cat_file(path)
        except FileNotFoundError:
            raise DataError("there is no such file") from None
        except aiohttp.ClientResponseError as error:
            # A server in trouble may recover; one that refuses will refuse again.
            if error.status < 500 or attempt == ATTEMPTS:
                raise DataError(f"the server answered {error.status} {error.message}") from None
        except (aiohttp.ClientConnectorError, TimeoutError) as error:
            # The wait was the attempt: a server that is not there is not worth another.
            raise DataError(str(error) or "no answer") from None
        except Exception:
            if attempt == ATTEMPTS:
                raise
        else:
            if format_of(content) is None:
                raise DataError(f"what came is {kind_of(content)}, not a picture")
            # One that stays damaged is so where it comes from, and a set may leave it out.
            if attempt == ATTEMPTS or not _is_damaged(content):
                _write(file, content)
                return
        time.sleep(0.5 * attempt)


def _is_kept(file: Path) -> bool:
    """Checks whether a picture was fetched; earlier versions kept whatever came."""
    try:
        with file.open("rb") as opened:
            return format_of(opened.read(FIRST_BYTES)) is not None
    except OSError:
        return False


def _is_damaged(content: bytes) -> bool:
    try:
        decode(content, min_side=1)
    except DataError:
        return True
    return False


def fetch_archive(url: str, sha256: str | None = None, folder: Path | None = None) -> Path:
    """Fetches an archive of pictures and unpacks it; returns the folder.

    Members that would be written outside of the folder are refused.

    Args:
        url: address of a zip or tar file.
        sha256: of the file, in hexadecimal; None takes it unchecked.
        folder: where it is kept; None is the user's cache folder.

    Raises:
        DataError: it cannot be fetched, is no archive, has another checksum, or cannot be unpacked.
    """
    import pooch
    import requests

    folder = cache_folder() / "archives" if folder is None else folder
    # What was once taken unchecked must not pass for what a checksum now asks for.
    unpacked = folder / Path(file_name_for(f"{url}#{sha256 or ''}")).stem
    if unpacked.is_dir():
        return unpacked
    _make(folder)
    downloader = pooch.HTTPDownloader(timeout=(CONNECT_SECONDS, READ_SECONDS))
    scheme = urlsplit(url).scheme
    try:
        with logging_from(logging.ERROR, pooch.get_logger()):
            file = pooch.retrieve(
                url,
                known_hash=f"sha256:{sha256}" if sha256 else None,
                fname=file_name_for(url),
                path=folder,
                downloader=downloader if scheme in ("http", "https") else None,
            )
    except requests.HTTPError as error:
        raise DataError(f"{url}: {error}") from None
    except requests.exceptions.ChunkedEncodingError:
        raise DataError(f"{url}: was cut short on its way; give the same command again") from None
    except (requests.RequestException, ConnectionError, TimeoutError, socket.gaierror) as error:
        raise DataError(
            f"{url}: no answer ({type(error).__name__}); without the network, fetch the file "
            "elsewhere, unpack it and name the folder with --data.path"
        ) from None
    except ValueError as error:
        # pooch raises it for a checksum and for an address alike.
        reason = "its content does not have the SHA-256 given" if sha256 else str(error)
        raise DataError(f"{url}: {reason}") from None
    except OSError as error:
        raise DataError(f"{url}: cannot be kept in {folder}: {error}") from None
    try:
        unpack(Path(file), unpacked, url)
    finally:
        # The pictures take its place; kept, it would double the room.
        Path(file).unlink(missing_ok=True)
    return unpacked


def file_name_for(address: str) -> str:
    """A file name that no two addresses share, with the address's own ending."""
    end = PurePosixPath(urlsplit(address).path).name
    suffixes = re.findall(r"\.[A-Za-z0-9]{1,8}", end)[-1:]
    return hashlib.sha256(address.encode()).hexdigest()[:32] + "".join(suffixes)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be made: {error.strerror}") from None


def _write(file: Path, content: bytes) -> None:
    descriptor, scratch = tempfile.mkstemp(dir=file.parent, prefix=".fetching-")
    try:
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(content)
        os.replace(scratch, file)
    except OSError as error:
        os.unlink(scratch)
        raise DataError(f"{file}: cannot be written: {error.strerror}") from None
