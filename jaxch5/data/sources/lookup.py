"""Finds files by the names that tables give them, which need not match exactly."""

from __future__ import annotations

import os
import stat
from collections import Counter, defaultdict
from pathlib import Path, PurePosixPath

from jaxch5.data.formats import SUFFIXES
from jaxch5.util.text import counted, folded

Found = list[tuple[str, tuple[int, int]]]


class Lookup:
    """Finds files by the names that a table gives them, and counts the inexact matches.

    A name is used unchanged if there is such a file. Otherwise backslashes become slashes, and a
    file also matches if its path differs from the name only in case, in composition (an umlaut may
    be stored as one character or as two), or in having a picture's extension that the name lacks.

    Args:
        folder: Folder in which relative names are looked up.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "Photos").mkdir()
        >>> (folder / "Photos" / "0017.jpg").touch()
        >>> lookup = Lookup(folder)
        >>> [name for name, _ in lookup.find("photos/0017")], lookup.notes()
        (['Photos/0017.jpg'], ['1 file named without an extension'])
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._listings: dict[Path, dict[str, list[str]]] = {}
        self._guessed: Counter[str] = Counter()

    def find(self, name: str) -> Found:
        """Returns each file that a name may mean: its path, and its device and inode numbers."""
        if found := self._file(name):
            return [found]
        slashed = name.replace("\\", "/")
        if slashed != name and (found := self._file(slashed)):
            self._guessed["named with backslashes"] += 1
            return [found]
        kinds = (False, "named in the wrong case"), (True, "named without an extension")
        for ending, what in kinds:
            names = self._close(slashed, ending)
            if files := [found for name in names if (found := self._file(name))]:
                self._guessed[what] += len(files) == 1
                return files
        return []

    def notes(self) -> list[str]:
        """Returns phrases that count the inexact matches of each kind."""
        return [
            f"{counted(count, 'file')} {what}" for what, count in self._guessed.items() if count
        ]

    def _file(self, name: str) -> tuple[str, tuple[int, int]] | None:
        try:
            status = os.stat(self._folder / name)
        except (OSError, ValueError):
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        # "./a.jpg" becomes "a.jpg"; ".." stays, since only the file system knows where it leads.
        return PurePosixPath(name).as_posix(), (status.st_dev, status.st_ino)

    def _close(self, name: str, ending: bool) -> list[str]:
        """Returns paths that match a name; with `ending`, the name lacks a picture's extension."""
        path = PurePosixPath(name)
        parts = path.parts[1:] if path.is_absolute() else path.parts
        places = ["/" if path.is_absolute() else ""]
        for number, part in enumerate(parts, start=1):
            key = folded(part) + ("." if ending and number == len(parts) else "")
            places = [
                os.path.join(place, entry)
                for place in places
                for entry in (
                    [part] if part == ".." else self._listing(self._folder / place).get(key, [])
                )
            ]
        return places

    def _listing(self, folder: Path) -> dict[str, list[str]]:
        """Returns a folder's entries, keyed by folded name and, for pictures, also by `STEM.`."""
        if folder not in self._listings:
            listing = self._listings[folder] = defaultdict(list)
            try:
                entries = sorted(os.listdir(folder))
            except OSError:
                entries = []
            for entry in entries:
                listing[folded(entry)].append(entry)
                stem, suffix = os.path.splitext(folded(entry))
                if suffix in SUFFIXES:
                    listing[f"{stem}."].append(entry)
        return self._listings[folder]
