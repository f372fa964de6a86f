"""Runs the peer of epoch.py, start.py and accuracy.py, which is fastai's `vision_learner`.

A request is {"files", "labels", "train", "arch", "presize", "size", "batch", "workers", "device",
"precision"}: the first `train` files are for training, and the others are for validation. Without
arguments, the script creates a learner at the first request, and trains one epoch at each later
request. With `--first-step REQUEST` it prints one line after the first step and exits; with
`--fine-tune REQUEST EPOCHS` it does so after fine-tuning. With `--cell FILE` it trains a cell of
accuracy.py. The request is then in FILE, and has additional keys.
"""

from __future__ import annotations

import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peer import answer_requests, declare_torchvision_operators

declare_torchvision_operators()
from fastai.vision import all as fastai  # noqa: E402


def learner_of(request: dict[str, Any]) -> fastai.Learner:
    """Creates a learner with the same head, sizes, augmentation and optimizer as ours."""
    files, train = request["files"], request["train"]
    label_of = dict(zip(files, request["labels"], strict=True))
    block = fastai.DataBlock(
        blocks=(fastai.ImageBlock, fastai.CategoryBlock),
        get_items=lambda files: [Path(file) for file in files],
        get_y=lambda file: label_of[str(file)],
        splitter=lambda items: (list(range(train)), list(range(train, len(items)))),
        item_tfms=fastai.Resize(request["presize"], method=request.get("cell_method", "crop")),
        batch_tfms=[
            *fastai.aug_transforms(
                size=request["size"], min_scale=0.75, do_flip=request.get("cell_flip", True)
            ),
            fastai.Normalize.from_stats(*fastai.imagenet_stats),
        ],
    )
    data = block.dataloaders(
        files, bs=request["batch"], num_workers=request["workers"], device=request["device"]
    )
    body = request.get("cell_weights")
    learn = fastai.vision_learner(
        data,
        partial(with_weights, request["arch"], body) if body else getattr(fastai, request["arch"]),
        pretrained=bool(body),
        metrics=fastai.accuracy,
    )
    if request["precision"] == "bf16":
        learn.add_cb(BFloat16()) if request["device"] == "cpu" else learn.to_bf16()
    if request["device"] != "cpu":
        learn.to_channelslast()
    return learn


def with_weights(arch: str, file: str, pretrained: bool = True) -> Any:
    """Returns torchvision's network without its last layer, and with the weights in a file."""
    from safetensors.torch import load_file

    network = getattr(fastai, arch)()
    network.fc = fastai.nn.Identity()
    weights = load_file(file)
    network.load_state_dict({name: weights[name] for name in network.state_dict()})
    return network


def accuracy_of(request: dict[str, Any]) -> dict[str, Any]:
    """Trains a cell of accuracy.py."""
    fastai.set_seed(request["cell_seed"], reproducible=True)
    learn = learner_of(request)
    epochs, rate, how = request["cell_epochs"], request["cell_lr"], request["cell_train"]
    began = time.perf_counter()
    with learn.no_bar(), learn.no_logging():
        if how == "fine_tune":
            learn.fine_tune(epochs - 1, rate)
        else:
            learn.freeze() if how == "frozen" else learn.unfreeze()
            learn.fit_one_cycle(epochs, rate)
        seconds = time.perf_counter() - began
        return {"accuracy": float(learn.validate()[1]), "seconds": seconds, **facts(learn)}


class BFloat16(fastai.Callback):
    """Computes in bfloat16 on a CPU, where `to_bf16` has no effect because it needs CUDA."""

    def before_batch(self) -> None:
        self.autocast = torch.autocast("cpu", torch.bfloat16)
        self.autocast.__enter__()

    def after_pred(self) -> None:
        assert self.learn.pred.dtype == torch.bfloat16
        self.learn.pred = self.learn.pred.float()

    def after_loss(self) -> None:
        self.autocast.__exit__(None, None, None)


def facts(learn: fastai.Learner) -> dict[str, Any]:
    """Returns what has to be the same on both sides."""
    return {
        "parameters": sum(parameter.numel() for parameter in learn.model.parameters()),
        "train": len(learn.dls.train_ds),
        "valid": len(learn.dls.valid_ds),
        "steps": len(learn.dls.train),
        "shape": list(learn.dls.one_batch()[0].shape[2:]),
        "classes": len(learn.dls.vocab),
    }


class FirstStep(fastai.Callback):
    """Reports the loss of the first step and ends the process, since nothing later is measured."""

    def after_step(self) -> None:
        print(json.dumps({"loss": float(self.learn.loss.detach())}), flush=True)
        os._exit(0)


def main() -> None:
    if sys.argv[1:]:
        command, request, *epochs = sys.argv[1:]
        if command == "--cell":
            print(json.dumps(accuracy_of(json.loads(Path(request).read_text()))), flush=True)
            return
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
