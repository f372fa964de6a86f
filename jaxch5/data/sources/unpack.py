"""Unpacks archives, including those from sources that cannot be trusted."""

from __future__ import annotations

import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Self

from jaxch5.data.sources.content import head_of, kind_of
from jaxch5.errors import DataError
from jaxch5.util.files import making
from jaxch5.util.text import percent

# Pictures hardly shrink when archived, except blank ones, which shrink many times over. Unpacked,
# an archive may take GROWTH times its own size plus FREE_GROWTH bytes (for the sake of small
# archives), but no more than SHARE_OF_DISK of the disk's free space.
GROWTH, FREE_GROWTH, SHARE_OF_DISK = 20, 10**9, 0.9
# Bytes that the smallest file takes on a disk.
BLOCK = 4096
# The bit of a zip file's member that says that its name is in UTF-8.
IN_UTF_8 = 0x800


class _Member(tarfile.TarInfo):
    """Refuses a member with a damaged header, which tarfile would take for the archive's end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError:
            # A block of zeros does mark the end.
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise
            raise tarfile.ReadError("it is cut short, or damaged") from None


def unpack(archive: Path, folder: Path, name: str | None = None) -> None:
    """Unpacks a zip or tar file into a new folder, atomically.

    Symbolic links and devices in a tar file are refused: nothing may be written through or to them.

    Args:
        archive: The file.
        folder: Folder to create and unpack into.
        name: What error messages call the archive; None means the name of its file.

    Raises:
        DataError: The file is neither a zip nor a tar file, or is damaged or encrypted; a member is
            refused or would be written outside the folder; or the members take too much room.
    """
    name = archive.name if name is None else name
    try:
        with making(folder) as scratch:
            scratch.mkdir()
            _unpack(archive, scratch, name)
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        EOFError,
        OSError,
        ValueError,
        RuntimeError,  # For a password or an unknown compression method.
        lzma.LZMAError,
        zlib.error,
    ) as error:
        # Another process may have unpacked it in the meantime.
        if not folder.is_dir():
            raise DataError(f"{name}: cannot be unpacked: {error}") from None


def _unpack(archive: Path, folder: Path, name: str) -> None:
    room = _room_for(archive, folder)
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            # A member that is longer than its stated size fails its checksum.
            files: set[PurePosixPath] = set()
            for entry in packed.infolist():
                entry.filename = _name_of(entry)
                _stays_inside(name, entry.filename)
                if not entry.is_dir():
                    _comes_once(name, entry.filename, files)
                room = _taken(name, room, entry.file_size)
            for entry in packed.infolist():
                packed.extract(entry, folder)
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive, tarinfo=_Member) as members:
            # Python 3.11 has extraction filters only from 3.11.4 on.
            more = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            members.extractall(folder, _harmless(members, room, name), **more)  # type: ignore[arg-type]
    else:
        kind = kind_of(head_of(archive))
        # A zip file is recognized by its end, which is missing if the file is cut short.
        what = "cut short" if kind == "a zip file" else f"{kind}, neither a zip nor a tar file"
        raise DataError(f"{name}: is {what}")


def _stays_inside(name: str, place: str) -> None:
    path = PurePosixPath(place)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{name}: holds {place}, which would be written outside its folder")


def _name_of(entry: zipfile.ZipInfo) -> str:
    """Returns the name of a zip file's member, with slashes.

    macOS writes names in UTF-8 without the flag that says so, and zipfile then takes them for text
    in code page 437; old tools for Windows write backslashes.
    """
    name = entry.filename
    if not entry.flag_bits & IN_UTF_8:
        # Names that are in code page 437 are hardly ever valid UTF-8.
        with suppress(UnicodeError):
            name = name.encode("cp437").decode()
    return name.replace("\\", "/")


def _comes_once(name: str, place: str, files: set[PurePosixPath]) -> None:
    """Refuses a file that an archive holds twice, as the second one would replace the first."""
    path = PurePosixPath(place)
    if path in files:
        raise DataError(
            f"{name}: holds {place} twice, and only one of the two can be unpacked; unpack it "
            "yourself and name the folder with --data.path"
        )
    files.add(path)


def _harmless(members: tarfile.TarFile, room: int, name: str) -> Iterator[tarfile.TarInfo]:
    """Yields the members of a tar file, each checked before it is unpacked."""
    files: set[PurePosixPath] = set()
    for member in members:
        # Some versions of tarfile follow a chain of long links out of the folder.
        if not (member.isfile() or member.isdir() or member.islnk()):
            raise DataError(f"{name}: holds {member.name}, which is neither a file nor a folder")
        for place in (member.name, member.linkname):
            _stays_inside(name, place)
        if not member.isdir():
            _comes_once(name, member.name, files)
        member.mode = 0o755 if member.isdir() else 0o644
        room = _taken(name, room, member.size)
        yield member


def _room_for(archive: Path, folder: Path) -> int:
    """Returns how many bytes an archive's members may take together once unpacked."""
    free = int(SHARE_OF_DISK * shutil.disk_usage(folder).free)
    return min(GROWTH * archive.stat().st_size + FREE_GROWTH, free)


def _taken(name: str, room: int, size: int) -> int:
    """Returns how many bytes of the room are left after one more member.

    Raises:
        DataError: The member does not fit.
    """
    left = room - max(size, BLOCK)
    if left < 0:
        raise DataError(
            f"{name}: unpacked, it would take more room than is allowed ("
            f"{GROWTH} times its size plus {FREE_GROWTH / 1e9:.0f} GB, and at most "
            f"{percent(SHARE_OF_DISK, 0)} of what is free on the disk); unpack it yourself and "
            "name the folder with --data.path"
        )
    return left
