"""Records the pictures of a run when it begins, and finds them again when the run is resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from jaxch5.config.settings import from_toml
from jaxch5.data.block import Data
from jaxch5.data.pictures import (
    Pictures,
    find,
    merged,
    pictures_of,
    read_pictures,
    restricted,
    write_pictures,
)
from jaxch5.data.recognition import recognize, trained_on
from jaxch5.data.source import Source
from jaxch5.data.split import Split
from jaxch5.errors import ConfigError, DataError
from jaxch5.models.pretrained import Pretrained
from jaxch5.run.directory import RunDir, home_of, read_skipped
from jaxch5.util.address import expanded
from jaxch5.util.text import counted, same_names


def record_pictures(run: RunDir, data: Data, restored: bool = False) -> None:
    """Records which pictures a run is trained on, and which it is validated on.

    Pictures recorded earlier stay in the record.

    Args:
        run: Run to write into.
        data: Pictures of the run.
        restored: Whether the run is resumed; if it is, a missing record is not replaced.

    Raises:
        CheckpointError: The record cannot be written, or an existing one is damaged.
        ConfigError: The existing record has other classes.
    """
    before, now = read_pictures(run.pictures_file), data.pictures
    if before is None:
        if not restored:
            write_pictures(run.pictures_file, now)
    elif not same_names(before.classes, now.classes):
        raise ConfigError(
            f"{run.path}: holds a run with other classes ({', '.join(before.classes)}); name "
            "another directory for these pictures"
        )
    elif before.digest != now.digest:
        write_pictures(run.pictures_file, merged(before, now))


def known_by(pretrained: Pretrained | None, data: Data) -> str | None:
    """Returns a warning if weights were trained on some of the validation pictures, else None.

    Args:
        pretrained: Weights to begin from; only those of a run come with a record of pictures.
        data: Data with the validation pictures.

    Raises:
        CheckpointError: The weights come from a run whose record of pictures is damaged.
    """
    sure, possible = trained_before(pretrained, data)
    if not pretrained or not (sure or possible):
        return None
    held_out = counted(len(data.valid.items), "validation picture")
    if not sure:
        return (
            f"{pretrained.origin} was trained on pictures with the names of {possible:,} of the "
            f"{held_out}: if they are the same pictures, the accuracy will be too high"
        )
    return (
        f"{pretrained.origin} was trained on {sure:,} of the {held_out}: the accuracy will be too "
        "high"
    )


def trained_before(pretrained: Pretrained | None, data: Data) -> tuple[int, int]:
    """Returns how many validation pictures weights were trained on, or may have been.

    Args:
        pretrained: Weights to begin from; only those of a run come with a record of pictures.
        data: Data with the validation pictures.

    Returns:
        The two numbers that `trained_on` returns.

    Raises:
        CheckpointError: The weights come from a run whose record of pictures is damaged.
        ConfigError: They come from a run whose configuration is not valid.
    """
    run = RunDir(Path(pretrained.origin)) if pretrained else None
    earlier = read_pictures(run.pictures_file) if run else None
    if run is None or earlier is None:
        return 0, 0
    # A run made by a user's own script may have a record, but no configuration.
    recorded = run.config_file.is_file()
    home = home_of(from_toml(run.config_file, recorded=True).data) if recorded else None
    items, file = np.union1d(data.train.items, data.valid.items), data.source.file
    of_item = (lambda number: file(int(items[number]))) if file else None
    return trained_on(data.pictures, earlier, recognize(earlier, data.pictures, of_item, home))


def going_on(
    run: RunDir, source: Source, say: Callable[[str], None], instead: str
) -> tuple[Source, Split] | None:
    """Returns the pictures that a run began with, and their split; None if it did not record them.

    Args:
        run: Run to resume.
        source: Pictures that the run's configuration finds now, which may include new ones.
        say: Function that takes a line about a missing record or each kind of change.
        instead: Advice on what else the user may do, for the message if pictures are gone or
            relabelled.

    Raises:
        DataError: A picture is gone, or has another class now.
        CheckpointError: The record is damaged.
    """
    pictures = read_pictures(run.pictures_file)
    if pictures is None:
        say(
            "this run has no record of its pictures (it is from an earlier version): its split is "
            "drawn again, and will differ if pictures were added or removed"
        )
        return None
    found = find(pictures, pictures_of(source))
    way = (
        "the run needs the pictures that it began with: restore them, give their new location with "
        f"--data.path, or {instead}"
    )
    if name := _first(pictures, found.places < 0):
        raise DataError(f"{name}: is gone; {way}")
    if name := _first(pictures, found.relabelled):
        raise DataError(f"{name}: is in a different class than when the run began; {way}")
    if name := _first(pictures, found.changed):
        say(f"{name}: has changed since the run began, so the result will differ")
    skipped = read_skipped(run)
    others = np.flatnonzero(found.known < 0).tolist()
    if came := sum(source.references[item] not in skipped for item in others):
        one = "picture was added since the run began and is left out"
        say(counted(came, one, "pictures were added since the run began and are left out"))
    return restricted(source, pictures, found), pictures.split


def check_pictures(run: RunDir, data: Data) -> None:
    """Checks that data has a run's pictures, each in the same part: training or validation.

    Raises:
        ConfigError: The pictures, their parts or their classes differ.
        CheckpointError: The record is damaged.
    """
    pictures, now = read_pictures(run.pictures_file), data.pictures
    if pictures is None or pictures.digest == now.digest:
        return
    found = find(pictures, now)
    there = found.places >= 0
    moved = pictures.held_out[there] != now.held_out[found.places[there]]
    counts = (
        (int((~there).sum()), "missing"),
        (int(moved.sum()), "in the other part"),
        (int(found.relabelled.sum()), "with another class"),
        (int((found.known < 0).sum()), "new"),
    )
    said = ", ".join(f"{count:,} {what}" for count, what in counts if count)
    raise ConfigError(
        f"{run.path}: was trained on other pictures ({said}); split the pictures as "
        "the run did, with recorded_split(RUN), or begin another run from its weights"
    )


def recorded_split(path: str | Path) -> Split:
    """Returns the split of a run, for a source that contains its pictures.

    Other pictures of the source are in neither part.

    Args:
        path: Run directory.

    Raises:
        ConfigError: There is no such run, or it has no record of its pictures.
        DataError: A picture of the run is missing from the source; the returned split raises this.
        CheckpointError: The record is damaged.
    """
    run = RunDir(expanded(Path(path)).absolute())
    pictures = read_pictures(run.pictures_file)
    if pictures is None:
        raise ConfigError(f"{path}: has no {run.pictures_file.name}, which records a run's split")

    def split(source: Source) -> tuple[np.ndarray, np.ndarray]:
        places = find(pictures, pictures_of(source)).places
        if name := _first(pictures, places < 0):
            raise DataError(f"{name}: is in the record of {path}, but not in {source.name}")
        return places[~pictures.held_out], places[pictures.held_out]

    return split


def _first(pictures: Pictures, chosen: Bool[np.ndarray, "pictures"]) -> str:
    """Names the first chosen picture, and counts the others; "" if none is chosen."""
    places = np.flatnonzero(chosen)
    if not len(places):
        return ""
    others = f" (and {counted(len(places) - 1, 'other')})" if len(places) > 1 else ""
    return f"{pictures.references[int(places[0])]}{others}"
