"""`jaxch5 pack SOURCE OUT`: presizes a set of pictures once, into a few large files."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import Any, ClassVar

import numpy as np
from pydantic import Field
from pydantic_settings import CliPositionalArg
from rich.console import Console

from jaxch5.cli import Options, run
from jaxch5.config.toml import deep_update
from jaxch5.framing import MAX_SIDE, height_and_width, parse_size
from jaxch5.util.text import counted, print_line, print_list


class PackOptions(Options):
    """Presize all pictures once and write them into a few large files.

    Every command that takes --data.path accepts the folder, with the same data.presize as here or a
    lower one. After an interruption, run the same command again: it resumes.
    """

    source: CliPositionalArg[str | None] = Field(
        None,
        description="folder or CSV file of pictures, the same as --data.path; leave it out if "
        "other settings name the pictures",
    )
    out: CliPositionalArg[str] = Field(
        description="folder to write to, or its address (s3://..., gs://...)"
    )
    shard_size: int = Field(8192, ge=1, description="number of pictures per file")
    quality: int = Field(95, ge=1, le=100, description="quality of the JPEG compression")

    path_argument: ClassVar[str] = "source"

    @classmethod
    def meant(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Sets `data.size` to `data.presize` if it is larger or not given: no network runs here."""
        values = super().meant(values)
        data = values.get("data", {})
        # The validation says what is wrong with a value that is not a number.
        with suppress(KeyError, TypeError, ValueError):
            size = parse_size(data.get("size", MAX_SIDE))
            if max(height_and_width(size)) > int(data["presize"]):
                return deep_update(values, {"data": {"size": data["presize"]}})
        return values


def pack(options: PackOptions) -> dict[str, Any]:
    """Packs the pictures; prints and returns what was written and what was left out."""
    from jaxch5.config.building import checked_source, own_split_of
    from jaxch5.data import packing
    from jaxch5.data.source import select
    from jaxch5.data.split import divide

    console = options.console()
    config = options.settings()
    source = checked_source(config)
    in_valid = None
    if (split := own_split_of(config.data, source)) is not None:
        train, valid = divide(source, split)
        in_valid = np.zeros(len(source), bool)
        in_valid[valid] = True
        used = np.sort(np.concatenate([train, valid]))
        if unused := len(source) - len(used):
            what = counted(unused, "picture is", "pictures are")
            print_line(console, f"{what} left out: used neither for training nor for validation")
            source, in_valid = select(source, used), in_valid[used]
    begin = time.perf_counter()
    index = packing.pack(
        source,
        options.out,
        config.data.presize,
        in_valid,
        quality=options.quality,
        shard_size=options.shard_size,
        seed=config.seed,
        skip_bad=config.data.on_bad == "skip",
        method=config.data.method,
        console=Console(stderr=True),
    )
    seconds = time.perf_counter() - begin
    shards = [shard for shard in index.shards if shard is not None]
    count, size = sum(shard.count for shard in shards), sum(shard.bytes for shard in shards)
    skipped = [reason for shard in shards for reason in shard.skipped.values()]
    print_list(console, "picture left out", "pictures left out", skipped)
    print_line(
        console,
        f"{counted(count, 'picture')} of {len(index.classes)} classes at presize {index.presize}, "
        f"{size / 1e6:,.1f} MB in {counted(len(shards), 'shard')}, "
        f"in {seconds:.1f} s: --data.path {options.out}",
    )
    return {
        "out": options.out,
        "pictures": count,
        "classes": list(index.classes),
        "presize": index.presize,
        "shards": len(shards),
        "bytes": size,
        "seconds": seconds,
        "skipped": skipped,
    }


def main() -> int:
    return run(pack, PackOptions, "jaxch5 pack")


if __name__ == "__main__":
    sys.exit(main())
