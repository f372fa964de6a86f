"""The peer of `step.py`: torchvision's ResNet in eager PyTorch, in an interpreter of its own.

Reads one JSON request a line from standard input and answers each with one line. The first
request is {"arch", "num_classes", "weights", "inputs", "device", "lr", "eps"}, and its
answer the losses of the first two steps in each layout. Every later one is {"layout", "steps"}
and its answer is {"seconds"}.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time

import numpy as np
import torch

# torchvision registers fakes of these operations when it is imported, which fails where its
# compiled part does not fit the installed torch. Nothing here calls them.
for operation in ("nms", "qnms"):
    with contextlib.suppress(RuntimeError):
        schema = "(Tensor boxes, Tensor scores, float threshold) -> Tensor"
        torch.library.define(f"torchvision::{operation}", schema)

import torchvision  # noqa: E402

LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


class Step:
    """Forward, loss, backward and Adam's update in one memory layout."""

    def __init__(self, request: dict, layout: str) -> None:
        device, memory_format = request["device"], LAYOUTS[layout]
        inputs = np.load(request["inputs"])
        weights = {
            name: torch.from_numpy(value) for name, value in np.load(request["weights"]).items()
        }
        self.model = getattr(torchvision.models, request["arch"])(
            num_classes=request["num_classes"]
        )
        self.model.load_state_dict(weights)
        self.model.to(device, memory_format=memory_format).train()
        nchw = torch.from_numpy(inputs["pictures"].transpose(0, 3, 1, 2))
        self.pictures = nchw.to(device).contiguous(memory_format=memory_format)
        self.labels = torch.from_numpy(inputs["labels"]).long().to(device)
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=request["lr"], eps=request["eps"]
        )

    def __call__(self) -> torch.Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(self.model(self.pictures), self.labels)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def answer(value: dict) -> None:
    print(json.dumps(value), flush=True)


def main() -> None:
    request = json.loads(sys.stdin.readline())
    steps = {layout: Step(request, layout) for layout in LAYOUTS}
    answer({layout: [float(step()) for _ in range(2)] for layout, step in steps.items()})
    for line in sys.stdin:
        turn = json.loads(line)
        begin = time.perf_counter()
        for _ in range(turn["steps"]):
            loss = steps[turn["layout"]]()
        # Reading the last loss waits for the device.
        float(loss)
        answer({"seconds": time.perf_counter() - begin})


if __name__ == "__main__":
    main()
