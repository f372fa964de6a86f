"""Lists the pictures below a folder, and everything that is passed over, with the reason."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxch5.data.formats import SUFFIXES, format_of
from jaxch5.data.sources.content import head_of
from jaxch5.util.files import DRAWN_BY
from jaxch5.util.text import composed


class Reason(NamedTuple):
    """Says why some files or folders below a folder are passed over.

    Attributes:
        one: Words for a single such file or folder.
        many: Words for several of them; empty if `one` suits several too.
        suspect: Whether the user may have expected them to be, or to hold, pictures.
    """

    one: str
    many: str = ""
    suspect: bool = False

    def text(self, count: int = 2) -> str:
        """Returns the words that follow the number of files or folders."""
        return self.one if count == 1 else self.many or self.one


HIDDEN = Reason("hidden file", "hidden files")
OWN = Reason("file of a run or a figure", "files of runs and figures")
OTHER = Reason("file of another kind", "files of other kinds")
AGAIN = Reason("folder already listed, through a link", "folders already listed, through links")
EMPTY = Reason("class folder without pictures", "class folders without pictures", suspect=True)
UNENDED = Reason(
    "picture without a picture's file extension",
    "pictures without a picture's file extension",
    suspect=True,
)
UNREAD = Reason("picture in an unsupported format", "pictures in unsupported formats", suspect=True)
DEAD = Reason("link that leads nowhere", "links that lead nowhere", suspect=True)
NAMED = Reason(
    "file in a folder named like a picture", "files in folders named like a picture", suspect=True
)
SPECIAL = Reason(
    "special file named like a picture", "special files named like pictures", suspect=True
)
CLOSED = Reason("folder that cannot be listed", "folders that cannot be listed", suspect=True)

PassedOver = Mapping[Reason, Sequence[str]]
# A folder that is being listed: its entries, the prefix of their paths, the folders that were seen
# before, and the reason to pass the folder over, if there is one.
Opened = tuple[Iterator[os.DirEntry[str]], str, set[tuple[int, int]], Reason | None]

ENDINGS = frozenset(SUFFIXES)
# Names, in lower case, of files and folders that operating systems and their tools create.
OF_THE_SYSTEM = {
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "#recycle"),
    *("$recycle.bin", "system volume information", "lost+found"),
}
# Extensions of picture files that cannot be read; half of them are cameras' raw formats.
UNREAD_SUFFIXES = (
    *(".svg", ".svgz", ".psd", ".xcf", ".jxl", ".ico", ".cur", ".tga", ".dds", ".exr", ".hdr"),
    *(".eps", ".pcx", ".sgi", ".pam", ".dcm", ".dng", ".raw", ".cr2", ".cr3", ".crw", ".nef"),
    *(".nrw", ".arw", ".srf", ".sr2", ".srw", ".orf", ".rw2", ".raf", ".pef", ".x3f", ".3fr"),
    *(".iiq", ".erf", ".kdc", ".mrw", ".gpr", ".heics", ".flif", ".bpg", ".jls", ".jxr", ".wdp"),
)
# Extensions of other files, which are not even opened to see whether they hold a picture.
OTHER_SUFFIXES = (
    *(".txt", ".md", ".rst", ".pdf", ".html", ".htm", ".css", ".js", ".log", ".doc", ".docx"),
    *(".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".ini", ".xls", ".xlsx"),
    *(".py", ".pyc", ".ipynb", ".sh", ".bat", ".mat", ".npy", ".npz", ".h5", ".hdf5", ".pkl"),
    *(".parquet", ".arrow", ".db", ".sqlite", ".lst", ".idx", ".rec", ".tfrecord", ".xmp", ".aae"),
    *(".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".md5", ".sha256", ".mp4"),
    *(".mov", ".avi", ".mkv", ".webm", ".mp3", ".wav", ".pth", ".pt", ".safetensors", ".onnx"),
)
# A run's folder holds all entries of the first set and at least one of the second.
RUN, RUN_WRITES = {"config.toml", "checkpoints"}, {"lock", "environment.jsonl", "metrics.jsonl"}
# Marks among the first bytes of the PNG and SVG files that this package draws.
MARKED_PNG, MARKED_SVG = b"tEXtSoftware\0" + DRAWN_BY.encode(), DRAWN_BY.encode()
# Names, or ends of names, that commands give to figures.
FIGURE_NAMES = (
    *("batch.png", "lr_find.png", "transfer_profile.png", "-explained.png"),
    *("confusion_matrix.png", "top_losses.png", "calibration.png", "unanswered.png"),
)
# If there are more PNG files than this, only those named like a figure are opened.
PNG_OPENED = 2000
NAMES_SHOWN = 3


class Listing(NamedTuple):
    """Holds what is below a folder, as relative paths with slashes.

    Attributes:
        pictures: Paths of the pictures, in the order of their names.
        passed_over: Paths of what was passed over, grouped by reason.
        barren: Names of the direct subfolders that were searched and hold no picture files.
    """

    pictures: list[str]
    passed_over: dict[Reason, list[str]]
    barren: list[str]


def list_folder(root: Path, leave_out: Iterable[str] = ()) -> Listing:
    """Lists a folder and all folders below it.

    Links are followed, but never back to the folder itself. Within each of its direct subfolders,
    no folder is listed twice, so that circular links are not followed for ever. Hidden files, files
    that operating systems add, runs, and figures that a command saved are passed over.

    Args:
        root: The folder.
        leave_out: Paths of subfolders that are not listed.

    Raises:
        OSError: The folder itself cannot be listed.
    """
    pictures: list[str] = []
    drawings: list[str] = []
    passed_over: dict[Reason, list[str]] = defaultdict(list)
    looked_into: list[str] = []
    # One folder's path may be "images" or "./images", for example.
    left_out = {os.path.abspath(folder) for folder in leave_out}

    def entries_of(
        folder: str, prefix: str, seen: set[tuple[int, int]], within: Reason | None
    ) -> Opened:
        """Opens a folder; returns no entries if it was seen before or cannot be listed."""
        nothing: Opened = (iter(()), prefix, seen, within)
        try:
            status = os.stat(folder)
            identity = (status.st_dev, status.st_ino)
            if identity in seen:
                passed_over[within or AGAIN].append(prefix)
                return nothing
            seen.add(identity)
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: composed(entry.name))
        except OSError:
            if not prefix:
                raise
            passed_over[within or CLOSED].append(prefix)
            return nothing
        if within is NAMED and not entries:
            passed_over[NAMED].append(prefix)
        if within is None and _is_run({entry.name for entry in entries}):
            within = OWN
        return iter(entries), prefix, seen, within

    # An explicit stack: folders may be nested more deeply than function calls can be.
    opened = [entries_of(os.fspath(root), "", set(), None)]
    while opened:
        entries, prefix, seen, inherited = opened[-1]
        for entry in entries:
            name, within = entry.name, inherited
            ending = name[name.rfind(".") :].lower()
            if ending in ENDINGS and within is None and name[0] != ".":
                if _leads_to(entry.is_file):
                    pictures.append(prefix + name)
                    if ending == ".png":
                        drawings.append(prefix + name)
                    continue
                within = NAMED
            if _is_hidden(name):
                within = HIDDEN
            # A link to a folder is not followed if everything in it would be passed over anyway.
            if _leads_to(entry.is_dir) and not (within and entry.is_symlink()):
                if os.path.abspath(entry.path) not in left_out:
                    if within is None and not prefix:
                        looked_into.append(name)
                    seen = seen if prefix else set(seen)
                    opened.append(entries_of(entry.path, f"{prefix}{name}/", seen, within))
                    break
            elif within is NAMED and inherited is None:
                dead = entry.is_symlink() and not _leads_to(entry.is_dir)
                passed_over[DEAD if dead else SPECIAL].append(prefix + name)
            else:
                passed_over[within or _why_not(entry)].append(prefix + name)
        else:
            opened.pop()

    full = {path.partition("/")[0] for path in pictures}
    barren = [name for name in looked_into if name not in full]
    if own := set(_figures(root, drawings)):
        pictures = [name for name in pictures if name not in own]
        passed_over[OWN] = sorted([*passed_over[OWN], *own], key=composed)
    return Listing(pictures, dict(passed_over), barren)


def folders_in(folder: Path) -> list[str]:
    """Returns the names of the subfolders that may hold pictures, links to folders included."""
    with os.scandir(folder) as listing:
        names = [
            entry.name
            for entry in listing
            if not _is_hidden(entry.name)
            and not entry.name.lower().endswith(SUFFIXES)
            and _leads_to(entry.is_dir)
        ]
    return sorted(names, key=composed)


def joined(*parts: tuple[str, PassedOver]) -> dict[Reason, list[str]]:
    """Merges what several listings passed over, with each listing's prefix before its paths."""
    together: dict[Reason, list[str]] = defaultdict(list)
    for prefix, passed_over in parts:
        for reason, paths in passed_over.items():
            if paths:
                together[reason] += [prefix + path for path in paths]
    return dict(together)


def described(passed_over: PassedOver) -> str:
    """Says how much was passed over for each reason, and names the first few if it is suspect.

    Example:
        >>> described({HIDDEN: [".a", "b/.c"], DEAD: ["d.jpg"]})
        '2 hidden files, 1 link that leads nowhere (d.jpg)'
    """
    parts = []
    for reason, paths in passed_over.items():
        more = ", ..." if len(paths) > NAMES_SHOWN else ""
        names = f" ({', '.join(paths[:NAMES_SHOWN])}{more})" if reason.suspect else ""
        parts.append(f"{len(paths):,} {reason.text(len(paths))}{names}")
    return ", ".join(parts)


def _is_hidden(name: str) -> bool:
    return name[0] == "." or name.lower() in OF_THE_SYSTEM


def _is_run(names: Collection[str]) -> bool:
    return set(names) >= RUN and not RUN_WRITES.isdisjoint(names)


def _leads_to(kind: Callable[[], bool]) -> bool:
    try:
        return kind()
    except OSError:
        # A link to itself raises this, for example.
        return False


def _why_not(entry: os.DirEntry[str]) -> Reason:
    """Returns why an entry that is not named like a picture is passed over."""
    lower = entry.name.lower()
    if not _leads_to(entry.is_file):
        return DEAD if entry.is_symlink() else OTHER
    if lower.endswith(OTHER_SUFFIXES):
        return OTHER
    if lower.endswith(".svg") and MARKED_SVG in head_of(entry.path):
        return OWN
    if lower.endswith(UNREAD_SUFFIXES):
        return UNREAD
    return UNENDED if _begins_like_a_picture(head_of(entry.path)) else OTHER


def _begins_like_a_picture(head: bytes) -> bool:
    form = format_of(head)
    if form == "BMP":
        # Text may begin with BM too; in a BMP file, the four bytes after the size are 0.
        return head[6:10] == b"\0\0\0\0"
    if form == "PPM":
        return re.match(rb"P.\s+(#|\d+\s+\d)", head) is not None
    return form is not None


def _figures(root: Path, drawings: Sequence[str]) -> Iterator[str]:
    """Yields the PNG files that are figures saved by a command.

    If there are many PNG files, not all are opened: opening all would double the listing's time.
    """
    if len(drawings) > PNG_OPENED:
        drawings = [name for name in drawings if name.lower().endswith(FIGURE_NAMES)]
    for name in drawings:
        if MARKED_PNG in head_of(os.path.join(root, name)):
            yield name
