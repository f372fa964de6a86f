"""The data that a configuration describes."""

from __future__ import annotations

from jaxch5.augmentation.policy import aug_transforms
from jaxch5.config import Config
from jaxch5.data.block import Data, DataBlock
from jaxch5.data.source import FOLDER, digits, from_folder
from jaxch5.data.split import folder_split, random_split


def load_data(config: Config) -> Data:
    """Source, split, sizes and augmentation as the configuration says, ready to iterate.

    Raises:
        DataError: the pictures cannot be found, told apart or split.
    """
    settings = config.data
    source = digits() if settings.path is None else from_folder(settings.path)
    if FOLDER in source.columns:
        split = folder_split()
    else:
        split = random_split(settings.valid_fraction, settings.split_seed)
    block = DataBlock(
        source,
        split,
        settings.presize,
        settings.size,
        augment=aug_transforms(**config.augment.model_dump()),
    )
    return block.load(settings.batch_size, cache=settings.cache, seed=config.seed)
