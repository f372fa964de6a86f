"""Builds the data that a configuration describes."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

from jaxch5.augmentation.policy import Policy, aug_transforms
from jaxch5.config.applies import Pictures
from jaxch5.config.settings import AugmentConfig, Config, DataConfig, check_applies
from jaxch5.data.block import Data, DataBlock
from jaxch5.data.decode import Reading
from jaxch5.data.parts import find_column, own_column, unused_columns
from jaxch5.data.sampler import SAMPLERS, Sampler
from jaxch5.data.source import (
    IS_VALID,
    Source,
    check_several,
    digits,
    may_be_deep,
    with_range,
)
from jaxch5.data.sources.folder import from_folder, from_regex
from jaxch5.data.sources.table import from_csv, is_table
from jaxch5.data.split import Split, column_split, divide, folder_split, random_split
from jaxch5.data.verify import check_heads, readable
from jaxch5.errors import ConfigError, DataError
from jaxch5.framing import height_and_width, size_text
from jaxch5.util.address import Address, is_address
from jaxch5.util.imports import load_function
from jaxch5.util.text import counted


def load_source(settings: DataConfig, fetch: bool = True) -> Source:
    """Returns the labelled pictures that the settings name, along with how to decode them.

    Args:
        settings: Settings that name the pictures.
        fetch: Whether pictures may be fetched or unpacked; if not, only a folder or a table of
            files on this machine is read.

    Raises:
        DataError: The pictures or their classes cannot be found, or may not be fetched.
        ConfigError: Settings do not fit the source.
    """
    source = _found(settings, fetch)
    if source.presized is None:
        source = replace(source, reading=Reading(settings.range, settings.max_pixels))
        if not source.reading.range.startswith("auto") and not may_be_deep(source):
            words = f"data.range = {settings.range} has no effect: no picture has more than 8 bits"
            source = replace(source, notes=(*source.notes, words))
        return with_range(source, read_all=settings.tfds is not None)
    packed = source.reading.range
    if settings.range not in ("auto", packed):
        raise ConfigError(
            f"data.range = {settings.range}: the pictures of {settings.path} were packed with "
            f"{packed}; pack them again to change it"
        )
    return replace(source, reading=Reading(packed, settings.max_pixels))


def as_decided(config: Config, source: Source) -> Config:
    """Returns the configuration with the source's value range, so that none is guessed later."""
    return config.model_copy(update={"data": {"range": source.reading.range}})


def with_epochs(config: Config, pictures: int) -> Config:
    """Returns the configuration; a `fit.epochs` of None is set to suit the number of pictures."""
    if config.fit.epochs is not None:
        return config
    epochs = epochs_for(pictures, from_scratch=config.model.weights == "none")
    return config.model_copy(update={"fit": {"epochs": epochs}})


def epochs_for(pictures: int, from_scratch: bool) -> int:
    """Returns the default number of epochs for photographs.

    Within limits, ten times as many pictures get half as many epochs, and thus five times as many
    steps. The numbers are estimates. docs/benchmarks.md tests two of them, those for training on
    200 and on 500 pictures from scratch, against half and twice as many epochs.

    Args:
        pictures: Number of pictures to train on.
        from_scratch: Whether there are no weights to begin from.

    Example:
        >>> [epochs_for(pictures, from_scratch=True) for pictures in (200, 2_000, 20_000)]
        [40, 20, 10]
        >>> [epochs_for(pictures, from_scratch=False) for pictures in (200, 2_000, 20_000)]
        [12, 6, 3]
    """
    most, least = (40, 10) if from_scratch else (12, 3)
    return min(max(round(most * 0.5 ** math.log10(max(pictures, 1) / 200)), least), most)


def _found(settings: DataConfig, fetch: bool) -> Source:
    places = settings.tfds, settings.archive, *filter(is_address, (settings.path,))
    if not fetch and (place := next(filter(None, places), None)):
        raise DataError(f"{place}: nothing is to be fetched or unpacked")
    if settings.tfds is not None:
        from jaxch5.data.sources.tfds import from_tfds

        return from_tfds(settings.tfds, settings.tfds_dir)
    if settings.archive is not None:
        from jaxch5.data.sources.archive import from_archive

        return from_archive(
            settings.archive, settings.sha256, settings.pattern, settings.train, settings.valid
        )
    if settings.path is None:
        return digits()
    if is_packed(settings.path):
        from jaxch5.data.sources.packed import from_packed

        return from_packed(settings.path)
    assert isinstance(settings.path, Path)
    if is_table(settings.path):
        columns = settings.image_column, settings.label_column
        return from_csv(settings.path, *columns, settings.root, fetch)
    if settings.path.is_file() and fetch:
        from jaxch5.data.sources.archive import from_archive, is_archive

        if is_archive(settings.path):
            return from_archive(
                settings.path, None, settings.pattern, settings.train, settings.valid
            )
    if settings.pattern is not None:
        return from_regex(settings.path, settings.pattern, settings.train, settings.valid)
    return from_folder(settings.path, settings.train, settings.valid)


def is_packed(path: Path | Address) -> bool:
    """Checks whether the pictures are a packed set; at an address, there can be nothing else."""
    from jaxch5.data.sources.packed import INDEX

    return isinstance(path, Address) or (path / INDEX).is_file()


def facts_of(settings: DataConfig, source: Source, split: Split | None = None) -> Pictures:
    """Returns what is known about the pictures that the settings name, for `check_applies`.

    Args:
        settings: Settings that name the pictures.
        source: The pictures.
        split: Split to use instead of the one that the settings describe.
    """
    if settings.tfds is not None or settings.archive is not None:
        kind = "archive" if settings.tfds is None else "tfds"
    elif settings.path is None:
        kind = "digits"
    elif is_packed(settings.path):
        kind = "packed"
    else:
        kind = "table" if is_table(Path(settings.path)) else "folder"
    if split is not None:
        # How the settings would split the pictures does not matter: a run keeps the split that it
        # recorded, even if its configuration would now be refused.
        return Pictures(kind, tuple(source.columns))
    column = column_of(settings, source)
    own = "" if column is None else f"their column {column}"
    if source.in_parts:
        own = "their folders" if kind == "folder" else "their own parts"
    return Pictures(
        kind,
        tuple(source.columns),
        column is not None,
        "" if settings.split == "random" else own,
    )


def checked_source(config: Config) -> Source:
    """Returns the pictures that the settings name, after a check that all settings apply.

    Raises:
        DataError: The pictures or their classes cannot be found, or there is only one class.
        ConfigError: Settings do not fit the pictures, or a given setting has no effect.
    """
    source = load_source(config.data)
    check_applies(config, pictures=facts_of(config.data, source))
    check_several(source)
    return source


def own_split_of(settings: DataConfig, source: Source) -> Split | None:
    """Returns the source's own split; None if it has none or is to be split at random."""
    if settings.split == "random":
        return None
    if source.in_parts:
        return folder_split()
    column = column_of(settings, source)
    if column is None and settings.split == "auto":
        return None
    return column_split(column or settings.split_column)


def column_of(settings: DataConfig, source: Source) -> str | None:
    """Returns the name of the column that splits a source; None if there is no such column.

    It is the column that the settings name or, if they name none, the source's own.
    """
    if source.in_parts or settings.split == "random":
        return None
    return find_column(source, settings.split_column) or (
        own_column(source) if settings.split_column == IS_VALID else None
    )


def split_of(settings: DataConfig, source: Source) -> Split:
    """Returns the split that the settings describe."""
    random = random_split(settings.valid_fraction, settings.split_seed, settings.stratify)
    return own_split_of(settings, source) or random


def sampler_of(name: str) -> Sampler:
    """Returns jaxch5's sampler of this name, or the function at this import path.

    Raises:
        ConfigError: There is no such sampler.

    Example:
        >>> sampler_of("balanced").__name__
        'balanced'
    """
    return SAMPLERS.get(name) or load_function(name, "data.sampler")


def policy_of(settings: AugmentConfig) -> Policy:
    """Returns the augmentation that the settings describe."""
    values = settings.model_dump(exclude={"mix", "mix_alpha"})
    beyond = {name: values.pop(name) for name in ("max_saturation", "max_hue", "p_gray")}
    return replace(aug_transforms(**values), **beyond)


def _remarks_on_split(settings: DataConfig, source: Source) -> list[str]:
    if source.in_parts or settings.split == "random":
        return []
    column = column_of(settings, source)
    known = column in (None, settings.split_column)
    guessed = [] if known else [f"split by its column {column}"]
    return guessed + [
        f"its column {name} is not used for the split" for name in unused_columns(source, column)
    ]


def load_data(
    config: Config,
    source: Source | None = None,
    split: Split | None = None,
    on_host: int | None = None,
) -> Data:
    """Loads the data that a configuration describes, ready to iterate.

    Args:
        config: Configuration of the run.
        source: Pictures, if they are loaded already.
        split: Split to use instead of the one that the configuration describes.
        on_host: Number of processes on this host; None stands for all that JAX knows.

    Raises:
        DataError: The pictures or classes cannot be found, read or split, or a batch is too large.
        ConfigError: Settings do not fit the pictures, or a given setting has no effect.
    """
    settings = config.data
    if source is None:
        source = load_source(settings)
        if settings.on_bad == "skip":
            source = readable(source)
    check_applies(config, pictures=facts_of(settings, source, split))
    if settings.on_bad == "stop":
        check_heads(source)
    split, own = split or split_of(settings, source), split is None
    import jax  # Commands that need no device, such as `verify`, do not import it.

    # Each process uses as many as every process has.
    each = min(Counter(device.process_index for device in jax.devices()).values())
    devices = (config.fit.devices or each) * jax.process_count()
    batch_size = settings.batch_size
    if "batch_size" not in settings.model_fields_set:
        # The default batch size is reduced to one that the training set and the devices allow.
        training = len(divide(source, split)[0])
        most = min(batch_size, training)
        batch_size = most // devices * devices or most
    if batch_size < settings.batch_size:
        why = "which is all there is for training"
        if training >= settings.batch_size:
            why = f"since {devices} devices share each of them equally"
        elif batch_size < training:
            for_training = counted(training, "picture")
            why = f"since there are {for_training} for training on {devices} devices"
        source = replace(source, notes=(*source.notes, f"batches of {batch_size}, {why}"))
    if own:
        source = replace(source, notes=(*source.notes, *_remarks_on_split(settings, source)))
    block = DataBlock(
        source,
        split,
        _presize_of(settings, source),
        settings.size,
        policy_of(config.augment),
        sampler_of(settings.sampler),
        settings.method,
        settings.pad_mode,
    )
    data = block.load(batch_size, cache=settings.cache, seed=config.seed, on_host=on_host)
    return replace(data, devices=devices)


def _presize_of(settings: DataConfig, source: Source) -> int:
    """Returns the presize; if none was given, that of a packed set replaces a larger default."""
    packed = source.presized
    if packed is None or "presize" in settings.model_fields_set:
        return settings.presize
    if packed < max(height_and_width(settings.size)):
        raise ConfigError(
            f"data.size = {size_text(settings.size)}: the pictures were packed at {packed}; choose "
            f"--data.size {packed} or less, or pack them again with a larger --data.presize"
        )
    return min(packed, settings.presize)
