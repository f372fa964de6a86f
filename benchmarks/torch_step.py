"""The peer of `step.py`: torchvision's ResNet in eager PyTorch, in an interpreter of its own.

The first
request is {"arch", "num_classes", "weights", "inputs", "device", "lr", "eps"}, and its
answer the losses of the first two steps in each layout. Every later one is {"layout", "steps"}
and its answer is {"seconds"}.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from peer import answer_requests, declare_torchvision_operators

declare_torchvision_operators()
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


def main() -> None:
    steps: dict[str, Step] = {}

    def answer(request: dict) -> dict:
        if not steps:
            steps.update({layout: Step(request, layout) for layout in LAYOUTS})
            return {layout: [float(step()) for _ in range(2)] for layout, step in steps.items()}
        begin = time.perf_counter()
        for _ in range(request["steps"]):
            loss = steps[request["layout"]]()
        # Reading the last loss waits for the device.
        float(loss)
        return {"seconds": time.perf_counter() - begin}

    answer_requests(answer)


if __name__ == "__main__":
    main()
