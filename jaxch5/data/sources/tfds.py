"""Reads labelled pictures from tensorflow-datasets, without TensorFlow."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from jaxch5.data.source import FOLDER, Source
from jaxch5.data.sources.download import cache_folder, file_name_for, reachable
from jaxch5.data.sources.listing import Reason
from jaxch5.errors import DataError
from jaxch5.util.address import expanded
from jaxch5.util.files import making
from jaxch5.util.libraries import empty_is_unset, logging_from

RECORDS_AT_A_TIME = 512
# tensorflow-datasets gives this label to items without a class, as in a contest's test set.
NO_LABEL = -1


# Only errors are logged, because tensorflow-datasets logs each of its steps.
@logging_from(logging.ERROR, "absl")
@empty_is_unset()
def from_tfds(name: str, data_dir: str | os.PathLike[str] | None = None) -> Source:
    """Reads pictures of a tensorflow-datasets set, by index, from its array_record files.

    A set that is not prepared is fetched and prepared; for some sets, this needs TensorFlow (extra
    `tfds`). The splits "train" and "validation" (or "test" if there is no "validation") become the
    folders train and valid for `folder_split`; other splits are not used. If one of the two parts
    is missing, there are no such folders, so another split has to divide the pictures; without
    "train", those of "validation" and "test" are taken together. Items without a label are left
    out. The line that describes the data counts these items and names the unused splits.

    Args:
        name: Name of the set, such as `oxford_iiit_pet` or `imagenette/160px-v2`.
        data_dir: Folder with prepared sets; None means tensorflow-datasets' own folder.

    Raises:
        DataError: There is no such set, it cannot be prepared or read by index, it has none of the
            splits named above, or it holds no pictures with a class.

    Example:
        >>> source = from_tfds("oxford_iiit_pet")  # doctest: +SKIP
        >>> data = DataBlock(source, given_split(), 460, 224).load(64)  # doctest: +SKIP
    """
    import tensorflow_datasets as tfds

    folder = None if data_dir is None else str(expanded(Path(data_dir)))
    try:
        builder = tfds.builder(name, data_dir=folder, file_format="array_record", try_gcs=False)
    except (tfds.core.registered.DatasetNotFoundError, ValueError) as error:
        raise DataError(f"data.tfds = {name}: {str(error).strip().splitlines()[0]}") from None
    if not builder.is_prepared():
        _prepare(builder, name)
    (image, label), chosen = _features(builder, name)
    splits = [split for split in ("train", "validation", "test") if split in builder.info.splits]
    if len(splits) == 3:
        splits.remove("test")
    if not splits:
        raise DataError(
            f"data.tfds = {name}: has no split train, validation or test (its splits: "
            f"{', '.join(builder.info.splits)})"
        )
    decoders = {image: tfds.decode.SkipDecoding()}
    try:
        parts = [builder.as_data_source(split=split, decoders=decoders) for split in splits]
    except NotImplementedError as error:
        raise DataError(
            f"data.tfds = {name}: {builder.data_path} cannot be read by index ({error}); "
            "name another folder with --data.tfds-dir, to prepare the set there as array_record"
        ) from None

    of_splits = [
        _labels(builder, split, part, label) for split, part in zip(splits, parts, strict=True)
    ]
    every = [
        (part, item, f"{name}/{split}/{item:07d}", split)
        for split, part in zip(splits, parts, strict=True)
        for item in range(len(part))
    ]
    every_label = np.concatenate(of_splits)
    unlabelled = [every[place][2] for place in np.flatnonzero(every_label == NO_LABEL)]
    kept = np.flatnonzero(every_label != NO_LABEL)
    items, labels = [every[place] for place in kept], every_label[kept]
    column = ["train" if split == "train" else "valid" for *_, split in items]
    unused = [
        f"{split} ({info.num_examples:,})"
        for split, info in builder.info.splits.items()
        if split not in splits
    ]

    def read(index: int) -> bytes:
        part, item, reference, _ = items[index]
        record = part[item]
        if record[label] != labels[index]:
            raise DataError(f"{reference}: its label has changed; load the set again")
        return record[image]

    return Source(
        classes=tuple(builder.info.features[label].names),
        labels=labels,
        references=[reference for _, _, reference, _ in items],
        read=read,
        columns={FOLDER: column} if len(set(column)) > 1 else {},
        in_parts=len(set(column)) > 1,
        passed_over={Reason("without a label"): unlabelled} if unlabelled else {},
        notes=(*chosen, *[f"splits not used: {', '.join(unused)}"] * bool(unused)),
    )


def _prepare(builder: Any, name: str) -> None:
    import tensorflow_datasets as tfds

    # tensorflow-datasets itself spends minutes retrying an address that does not answer.
    addresses = _addresses(builder)
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(reachable, addresses))
    if addresses and not any(answers):
        raise DataError(
            f"data.tfds = {name}: is not prepared in {builder.data_path}, and "
            f"{' and '.join(addresses)} cannot be reached; name a folder that holds it with "
            "--data.tfds-dir, or a folder of pictures with --data.path"
        )
    try:
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
    except ImportError as error:
        raise DataError(
            f"data.tfds = {name}: needs {error.name or 'TensorFlow'} while it is prepared, which "
            "is done once; python -m pip install -e '.[tfds]' in jaxch5's folder installs it"
        ) from None
    except Exception as error:
        # A builder is anybody's code and may raise anything.
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"data.tfds = {name}: could not be prepared: {reason[0]}") from None


def _addresses(builder: Any) -> list[str]:
    """Returns the addresses among the strings in a builder's module, or else the set's homepage."""
    module = vars(sys.modules[type(builder).__module__])
    found = [
        value
        for value in module.values()
        if isinstance(value, str) and value.startswith(("http://", "https://"))
    ]
    return sorted(set(found)) or [builder.info.homepage] * bool(builder.info.homepage)


def _features(builder: Any, name: str) -> tuple[tuple[str, str], list[str]]:
    """Returns the names of the entries that hold a record's picture and its class, and notes.

    The notes name the entries that could have been chosen as well, unless the choice is the usual
    one, `image` or `label`.
    """
    import tensorflow_datasets as tfds

    entries = dict(builder.info.features)
    images = [key for key, entry in entries.items() if type(entry) is tfds.features.Image]
    labels = [key for key, entry in entries.items() if isinstance(entry, tfds.features.ClassLabel)]
    if not images or not labels:
        raise DataError(
            f"data.tfds = {name}: holds no pictures with one class each "
            f"(its entries: {', '.join(entries)})"
        )
    chosen, notes = [], []
    for usual, what, found in (("image", "pictures", images), ("label", "classes", labels)):
        one = usual if usual in found else found[0]
        others = [key for key in found if key != one]
        if others and one != usual:
            notes.append(f"{what} are those of {one}; also there: {', '.join(others)}")
        chosen.append(one)
    return (chosen[0], chosen[1]), notes


def _labels(
    builder: Any, split: str, records: Sequence[dict[str, Any]], label: str
) -> Int32[np.ndarray, "records"]:
    """Returns a split's labels, which are cached, since reading them means reading all records."""
    name = f"{label} of {_files(builder, split)}"
    file = cache_folder("labels") / f"{file_name_for(name)}.npy"
    try:
        return np.load(file, allow_pickle=False)
    except (OSError, ValueError):
        pass
    read = records.__getitems__  # type: ignore[attr-defined]
    labels = [
        record[label]
        for start in range(0, len(records), RECORDS_AT_A_TIME)
        for record in read(range(start, min(start + RECORDS_AT_A_TIME, len(records))))
    ]
    result = np.array(labels, np.int32)
    # The cache only saves time, so a failure to write it does not matter.
    with suppress(OSError), making(file) as scratch, scratch.open("wb") as opened:
        np.save(opened, result)
    return result


def _files(builder: Any, split: str) -> list[tuple[str, int, int, int]]:
    """Returns a split's files, with sizes and times that change if the set is prepared again.

    The ctime is included, since a copy may keep the mtime and unpacking an archive restores it.
    """
    files = sorted(map(os.fspath, builder.info.splits[split].filepaths))
    stats = [(file, os.stat(file)) for file in files]
    return [(file, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for file, stat in stats]
