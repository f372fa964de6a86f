"""Describes how pictures become batches (`DataBlock`), and holds the result (`Data`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import jax
import numpy as np
from jaxtyping import Int
from rich.console import Console

from jaxch5.augmentation.policy import MIN_SCALE, Policy, aug_transforms
from jaxch5.batch import repeated
from jaxch5.data.canvases import Canvases, check_presize, choose_cache, free_on_device
from jaxch5.data.pictures import Pictures, pictures_of
from jaxch5.data.pipeline import Loader
from jaxch5.data.sampler import Sampler, shuffled
from jaxch5.data.source import Source, remarks, with_range
from jaxch5.data.split import Split, divide
from jaxch5.data.summary import draw, first_pictures, sizes_of, summarize, unseen, unseen_text
from jaxch5.errors import ConfigError
from jaxch5.framing import Framing, Size, height_and_width, size_text
from jaxch5.plots.training import plot_pictures
from jaxch5.util.fastai import NamesFastai
from jaxch5.util.memory import free_memory
from jaxch5.util.seeds import check_seed
from jaxch5.util.text import counted, described, plain_console, print_line

# If each epoch leaves out more than this share of the pictures, or training never sees more than
# this share of their pixels, a line says so.
NOTABLE = 0.1

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Data(NamesFastai):
    """Holds batches for training and validation, and what they were made from.

    Attributes:
        classes: Names of the classes, in the order of the labels.
        train: Batches of training pictures, in an order that the sampler draws for each epoch.
        valid: Batches of validation pictures, in a fixed order; the last one is padded.
        presize: Short side of the canvases, in pixels.
        size: Side of the network's input, or its height and width, in pixels.
        augment: Augmentation, such as `aug_transforms` returns; None if pictures are not augmented.
        cache: Where presized pictures are kept: "off", "memory" or "device".
        cache_reason: Why they are kept there, in a few words.
        source: The pictures of both parts.
        devices: Number of devices that share each batch equally, as far as it is known.

    Raises:
        ConfigError: `size` is not between 1 and `presize`, as after `replace(data, size=...)`.

    Example:
        >>> from jaxch5.data.source import digits
        >>> from jaxch5.data.split import random_split
        >>> data = DataBlock(digits(), random_split(), presize=8, size=8).load(batch_size=64)
        >>> data.classes[:3], len(data.train), len(data.valid)
        (('0', '1', '2'), 22, 6)
        >>> fourth = data.train.epoch(3)  # iter(data.train) is the first epoch
        >>> next(iter(fourth)).label.shape
        (64,)
        >>> data.with_seed(1).describe().partition(";")[0]
        '1,797 pictures of 10 classes: 1,438 for training, 359 for validation'
    """

    classes: tuple[str, ...]
    train: Loader
    valid: Loader
    presize: int
    size: Size
    augment: Policy | None
    cache: str
    cache_reason: str
    source: Source
    devices: int = 1

    def __post_init__(self) -> None:
        _check_size(self.size, self.presize)

    def __repr__(self) -> str:
        return f"<{self.describe()}>".replace("; ", "\n ")

    def describe(self) -> str:
        """Returns one line on the data: counts, classes, sizes, cache and remarks on the source."""
        much, *known = self._known()
        how = f"presized to {self.presize}, network input {size_text(self.size)}{self._framed()}"
        return "; ".join([much, how, f"cache {self.cache} ({self.cache_reason})", *known])

    def outline(self, advise: bool = True) -> list[str]:
        """Returns lines with the counts and whatever else is worth knowing before training.

        Args:
            advise: Whether the lines name settings that would make better use of the pictures.
        """
        much, *known = self._known(advise)
        if (lost := self._lost) and self._unseen[0] > NOTABLE:
            known.insert(0, lost + " (--data.method squish or pad keeps them)" * advise)
        return [much, *known]

    def _known(self, advise: bool = True) -> list[str]:
        train, valid = len(self.train.items), len(self.valid.items)
        unused = len(self.source) - train - valid
        much = (
            f"{counted(train + valid, 'picture')} of {len(self.classes)} classes: {train:,} for "
            f"training, {valid:,} for validation" + (f", {unused:,} for neither" if unused else "")
        )
        validated = set(np.unique(self.source.labels[self.valid.items]).tolist())
        absent = [name for k, name in enumerate(self.classes) if k not in validated]
        others = f" and {counted(len(absent) - 1, 'other')}" if len(absent) > 1 else ""
        missing = [f"no validation picture of {absent[0]}{others}"] if absent else []
        return [much, *self._drawn(advise), *missing, *remarks(self.source)]

    def _drawn(self, advise: bool) -> list[str]:
        sampler, draws, train = self.train.sampler, self.train.draws, len(self.train.items)
        size = self.train.batch_size
        batches, rest = divmod(draws, size)
        found = []
        if rest > NOTABLE * draws:
            # The largest of the sizes that leave out the fewest draws, of those that the devices
            # can share. Batch norm needs two rows.
            sizes = range(size - size % self.devices, max(1, size // 2 - 1), -self.devices)
            better = min(sizes, key=lambda other: draws % other, default=size)
            found = [
                f"each epoch leaves out {rest:,} of its {draws:,} draws, since it consists of "
                f"{counted(batches, 'batch', 'batches')} of {size}"
                + f" (--data.batch-size {better} leaves out {draws % better or 'none'})"
                * (advise and draws % better < rest)
            ]
        if sampler is shuffled:
            return found
        per_epoch = f"{draws:,} draws" if draws != train else "as many draws as training pictures"
        return [f"an epoch has {per_epoch} ({described(sampler)})", *found]

    def _framed(self) -> str:
        if self.framing.method != "crop":
            return f" ({self.framing.method}: every pixel is seen)"
        return f", {self._lost}" if self._lost else ""

    @property
    def _lost(self) -> str:
        """Says what shares of the pixels a crop never shows; "" if none, or if it is not known."""
        known = self.framing.method == "crop" and not self.train.canvases.source.sharded
        return unseen_text(*self._unseen) if known else ""

    @cached_property
    def _unseen(self) -> tuple[float, float]:
        return unseen(sizes_of(self.source), self.size, self.augment is not None)

    @property
    def framing(self) -> Framing:
        """Returns how pictures are fitted to the shape of the network's input."""
        return self.train.canvases.framing

    @cached_property
    def pictures(self) -> Pictures:
        """Returns the pictures' names, and whether each is for training or for validation."""
        return pictures_of(self.source, self.train.items, self.valid.items)

    def with_seed(self, seed: int) -> Data:
        """Returns the same pictures, shuffled with another seed.

        Args:
            seed: Seed of the shuffling.

        Raises:
            ConfigError: The seed is not a whole number from 0 to 2**32 - 1.
        """
        return replace(self, train=self.train.with_seed(check_seed(seed)))

    def parted(self, train: Int[np.ndarray, "train"], valid: Int[np.ndarray, "valid"]) -> Data:
        """Returns the same pictures, split differently.

        Args:
            train, valid: Indices of the source's items that each part now consists of.

        Raises:
            DataError: A batch is larger than the new training set.
        """
        train_loader, valid_loader = self.train.with_items(train), self.valid.with_items(valid)
        return replace(self, train=train_loader, valid=valid_loader)

    def shared(
        self, put: Callable[[jax.Array], jax.Array], part: tuple[int, int], devices: int
    ) -> Data:
        """Returns the part of the data that one of several processes reads.

        Args:
            put: Function that moves an array from the default device to all devices that train.
            part: The index of the process that reads, and the number of processes.
            devices: Number of devices that share each batch.
        """
        train, valid = (loader.shared(put, part) for loader in (self.train, self.valid))
        return replace(self, train=train, valid=valid, devices=devices)

    def summary(self, console: Console | None = None) -> None:
        """Prints what goes into each stage of the pipeline and what comes out.

        Args:
            console: Console to print to; None means standard output.

        Raises:
            DataError: A stage fails; the message names the stage and the file. The lines of the
                earlier stages have been printed by then.
        """
        console = console or plain_console()
        for line in self.stages():
            print_line(console, line)

    def stages(self) -> Iterator[str]:
        """Yields the lines that `summary` prints, and raises the same errors."""
        cache = f"{self.cache} ({self.cache_reason})"
        return summarize(self.train, self.valid, self.augment, self.size, cache)

    def show_batch(
        self, nrows: int = 3, ncols: int = 3, unique: bool = False, seed: int = 0
    ) -> Figure:
        """Draws a figure of training pictures as the network sees them, with their classes.

        Args:
            nrows, ncols: Number of rows and number of columns in the grid.
            unique: Whether to show many augmentations of one picture instead of many pictures.
            seed: Seed with which the augmentations are drawn.

        Raises:
            DataError: A picture cannot be read.
        """
        count = nrows * ncols
        batch = first_pictures(self.train, 1 if unique else count)
        if unique:
            batch = repeated(batch, count)
        titles = [self.classes[label] for label in batch.label]
        return plot_pictures(draw(self.augment, batch, self.size, seed), titles, nrows, ncols)


def _check_size(size: Size, presize: int) -> None:
    sides = height_and_width(size)
    if not 1 <= min(sides) <= max(sides) <= presize:
        raise ConfigError(
            f"presize = {presize}, size = {size}: size should be at least 1 and at most presize"
        )


@dataclass(frozen=True)
class DataBlock(NamesFastai):
    """Describes data: where its pictures are, and how they are split, presized and augmented.

    Args:
        source: Labelled pictures, such as `from_folder` returns.
        split: Function that holds out pictures for validation, such as one that `random_split`
            returns. Your own function `(source) -> (train, valid)` returns each part as numbers of
            items, or as a mask.
        presize: Length, in pixels, to which the CPU brings a side of every picture: the short side
            with method "crop", the long side with "pad", and both sides with "squish".
        size: Side, or height and width, of the network's input, in pixels. The device brings
            presized pictures to this size.
        augment: Augmentation, such as `aug_transforms` returns; None if pictures are not to be
            augmented.
        sampler: Function that decides which pictures an epoch draws: `shuffled` draws every picture
            once; `balanced` draws every class equally often; `repeated` joins several epochs into
            one. It may also be a `functools.partial` of one of these, or your own function
            `(labels, epoch, seed) -> places`, which gets the labels of all training pictures and
            returns indices into these labels.
        method, pad_mode: How pictures are fitted to the shape of the network's input ("crop",
            "squish" or "pad"), and what fills the area beyond their border ("reflection",
            "border", "zeros" or a colour); see `Framing`.

    Raises:
        ConfigError: `size` is not between 1 and `presize`, or `method` or `pad_mode` has a value
            that is not listed above.

    Example:
        >>> from jaxch5.data.source import digits
        >>> from jaxch5.data.split import random_split
        >>> data = DataBlock(digits(), random_split(), presize=40, size=32).load(batch_size=64)
        >>> len(data.train), len(data.valid), next(iter(data.train)).image.shape
        (22, 6, (64, 40, 60, 3))
    """

    source: Source
    split: Split
    presize: int
    size: Size
    augment: Policy | None = field(default_factory=lambda: aug_transforms(min_scale=MIN_SCALE))
    sampler: Sampler = shuffled
    method: str = Framing.method
    pad_mode: str = Framing.pad_mode

    def __post_init__(self) -> None:
        Framing(self.method, self.pad_mode)
        _check_size(self.size, self.presize)

    def __repr__(self) -> str:
        sizes = f"presized to {self.presize}, network input {size_text(self.size)}"
        return f"<{counted(len(self.source), 'picture')}, {self.split}\n {sizes}>"

    def load(
        self, batch_size: int, cache: str = "auto", seed: int = 0, on_host: int | None = None
    ) -> Data:
        """Makes batches; pictures are read on demand, unless they are cached on the device.

        Args:
            batch_size: Number of pictures in each step.
            cache: Where presized pictures are kept: nowhere ("off"), in the host's memory
                ("memory") or on the device ("device"). With "device", all pictures are presized
                now, and each step takes its batch from those on the device. "auto" chooses the
                device if it is an accelerator and the pictures fit in a quarter of its free memory
                and in half of the host's; else the host's memory if they fit in a quarter of what
                is free in it; else "off". Jobs, containers and processes may have a share of it.
            seed: Seed of the shuffling.
            on_host: Number of processes on this host; None stands for all that JAX knows.

        Raises:
            DataError: There is only one class; the split does not return two parts, leaves a part
                empty or a class without training pictures, or puts a picture into a part twice or
                into both parts; a batch is larger than the training set; or a picture cannot be
                read while all pictures are presized.
            ConfigError: The pictures were packed with a short side of fewer than `presize` pixels,
                or were cropped although `method` does not allow that; `cache` is not one of the
                four values; `batch_size` is below 1; the seed is not a whole number from 0 to
                2**32 - 1; or the sampler does not return indices into the labels.
        """
        # Without a seed, a loader would not shuffle.
        seed, source = check_seed(seed), with_range(self.source)
        framing = Framing(self.method, self.pad_mode)
        check_presize(source, self.presize, self.method)
        train, valid = divide(source, self.split)
        sharing = on_host or jax.process_count()
        free = lambda: free_memory() // sharing, free_on_device
        kept, reason = choose_cache(cache, len(source), self.presize, *free, self.method)
        canvases = Canvases(source, self.presize, kept == "memory", framing)
        if kept == "device":
            canvases.to_device()
        return Data(
            classes=source.classes,
            train=Loader(canvases, train, batch_size, seed, sampler=self.sampler),
            valid=Loader(canvases, valid, batch_size),
            presize=self.presize,
            size=self.size,
            augment=self.augment,
            cache=kept,
            cache_reason=reason,
            source=source,
        )
