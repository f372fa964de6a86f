"""Runs the peer of digits.py: fastai trains a ResNet-18 from scratch on the digits in a file."""

import json
import sys

import numpy as np
from peer import declare_torchvision_operators

declare_torchvision_operators()
from fastai.vision.all import (  # noqa: E402
    CategoryBlock,
    DataBlock,
    ImageBlock,
    IndexSplitter,
    PILImage,
    Resize,
    accuracy,
    aug_transforms,
    resnet18,
    set_seed,
    vision_learner,
)


def main() -> None:
    file, seed = sys.argv[1], int(sys.argv[2])
    table = np.load(file)
    images, labels = table["images"], table["labels"]
    set_seed(seed, reproducible=True)
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_x=lambda item: PILImage.create(images[item]),
        get_y=lambda item: int(labels[item]),
        splitter=IndexSplitter(table["valid"].tolist()),
        item_tfms=Resize(40),
        batch_tfms=aug_transforms(size=32, do_flip=False),
    )
    data = block.dataloaders(range(len(labels)), bs=64, num_workers=0)
    learn = vision_learner(data, resnet18, pretrained=False, metrics=accuracy)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(5, 3e-3)
        print(json.dumps({"accuracy": float(learn.validate()[1])}))


if __name__ == "__main__":
    main()
