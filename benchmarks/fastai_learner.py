"""The peer of epoch.py and start.py: fastai's `vision_learner` on photographs, from scratch.

A request, which both take, is {"files", "labels", "train", "arch", "presize", "size", "batch",
"workers", "device", "precision"}: the first `train` of the files are trained on and the others
validate. With `--first-step REQUEST` it prints one line when the first step is done, and ends; with
`--fine-tune REQUEST EPOCHS` when it has been fine-tuned.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from peer import answer_requests, declare_torchvision_operators

declare_torchvision_operators()
from fastai.vision import all as fastai  # noqa: E402


def learner_of(request: dict[str, Any]) -> fastai.Learner:
    """With the same head, sizes, augmentation and optimizer as ours has."""
    files, train = request["files"], request["train"]
    label_of = dict(zip(files, request["labels"], strict=True))
    block = fastai.DataBlock(
        blocks=(fastai.ImageBlock, fastai.CategoryBlock),
        get_items=lambda files: [Path(file) for file in files],
        get_y=lambda file: label_of[str(file)],
        splitter=lambda items: (list(range(train)), list(range(train, len(items)))),
        item_tfms=fastai.Resize(request["presize"]),
        batch_tfms=[
            *fastai.aug_transforms(size=request["size"], min_scale=0.75),
            fastai.Normalize.from_stats(*fastai.imagenet_stats),
        ],
    )
    data = block.dataloaders(
        files, bs=request["batch"], num_workers=request["workers"], device=request["device"]
    )
    learn = fastai.vision_learner(
        data, getattr(fastai, request["arch"]), pretrained=False, metrics=fastai.accuracy
    )
    if request["precision"] == "bf16":
        learn.to_bf16()
    if request["device"] != "cpu":
        learn.to_channelslast()
    return learn


def facts(learn: fastai.Learner) -> dict[str, Any]:
    """What has to be the same on both sides."""
    return {
        "parameters": sum(parameter.numel() for parameter in learn.model.parameters()),
        "train": len(learn.dls.train_ds),
        "valid": len(learn.dls.valid_ds),
        "steps": len(learn.dls.train),
        "shape": list(learn.dls.one_batch()[0].shape[2:]),
        "classes": len(learn.dls.vocab),
    }


class FirstStep(fastai.Callback):
    """Says that the first step is done, and ends the process: nothing after it counts."""

    def after_step(self) -> None:
        print(json.dumps({"loss": float(self.learn.loss.detach())}), flush=True)
        os._exit(0)


def main() -> None:
    if sys.argv[1:]:
        command, request, *epochs = sys.argv[1:]
        learn = learner_of(json.loads(request))
        with learn.no_bar(), learn.no_logging():
            if command == "--first-step":
                learn.fit(1, 1e-3, cbs=FirstStep())
            learn.fine_tune(int(epochs[0]))
        print(json.dumps({"loss": float(learn.recorder.losses[-1])}), flush=True)
        return
    learners: list[fastai.Learner] = []

    def answer(request: dict[str, Any]) -> Any:
        if not learners:
            learners.append(learner_of(request))
            return facts(learners[0])
        (learn,) = learners
        begin = time.perf_counter()
        with learn.no_bar(), learn.no_logging():
            learn.fit(1, 1e-3)
        return {"seconds": time.perf_counter() - begin, "loss": float(learn.recorder.losses[-1])}

    answer_requests(answer)


if __name__ == "__main__":
    main()
