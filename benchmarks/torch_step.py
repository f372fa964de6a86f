"""Runs the peer of step.py: it trains torchvision's or timm's network in PyTorch.

The first request is {"arch", "library", "num_classes", "weights", "inputs", "device", "precision",
"modes", "layouts", "lr", "eps"}. Its answer is {"losses": {way: losses of the first two steps},
"failed": {way: reason}}. Every later request is {"way", "steps"}, and its answer is the pictures
per second.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
from peer import answer_requests, declare_torchvision_operators

declare_torchvision_operators()

LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def network(library: str, arch: str, num_classes: int, side: int) -> torch.nn.Module:
    """Returns the library's network; timm's vision transformers are built for one picture size."""
    if library == "torchvision":
        import torchvision

        return getattr(torchvision.models, arch)(num_classes=num_classes)
    import timm

    size = {"img_size": side} if arch.startswith("vit") else {}
    return timm.create_model(arch, num_classes=num_classes, **size)


class Step:
    """Makes training steps in one memory layout, either compiled or eager.

    A step consists of a forward pass, the loss, a backward pass and Adam's update.
    """

    def __init__(self, request: dict, mode: str, layout: str) -> None:
        self.device, memory_format = request["device"], LAYOUTS[layout]
        inputs = np.load(request["inputs"])
        weights = {
            name: torch.from_numpy(value) for name, value in np.load(request["weights"]).items()
        }
        names = (request[name] for name in ("library", "arch", "num_classes"))
        model = network(*names, side=inputs["pictures"].shape[1])
        model.load_state_dict(weights)
        model.to(self.device, memory_format=memory_format).train()
        self.model = torch.compile(model) if mode == "compile" else model
        nchw = torch.from_numpy(inputs["pictures"].transpose(0, 3, 1, 2))
        self.pictures = nchw.to(self.device).contiguous(memory_format=memory_format)
        self.labels = torch.from_numpy(inputs["labels"]).long().to(self.device)
        self.half = HALF.get(request["precision"])
        self.optimizer = torch.optim.Adam(
            model.parameters(), lr=request["lr"], eps=request["eps"], fused=True
        )

    def __call__(self) -> torch.Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device, self.half, enabled=self.half is not None):
            logits = self.model(self.pictures)
        loss = torch.nn.functional.cross_entropy(logits.float(), self.labels)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def main() -> None:
    steps: dict[str, Step] = {}
    # JAX uses TF32 for float32 on a GPU, so PyTorch should do so too.
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True

    def begin(request: dict) -> dict:
        losses, failed = {}, {}
        for mode in request["modes"]:
            for layout in request["layouts"]:
                way = f"{mode}, {layout}"
                try:
                    step = Step(request, mode, layout)
                    losses[way] = [float(step()) for _ in range(2)]
                    steps[way] = step
                except Exception as error:
                    # This happens without a C++ compiler, for example. The peers that do not fail,
                    # such as eager PyTorch, are timed all the same.
                    failed[way] = f"{type(error).__name__}: {error}".splitlines()[0]
                    print(f"{way}: {failed[way]}", file=sys.stderr)
        return {"losses": losses, "failed": failed}

    def answer(request: dict) -> dict | float:
        if not steps:
            return begin(request)
        step = steps[request["way"]]
        began = time.perf_counter()
        for _ in range(request["steps"]):
            loss = step()
        # Reading the last loss waits until the device has finished.
        float(loss)
        return request["steps"] * len(step.labels) / (time.perf_counter() - began)

    answer_requests(answer)


if __name__ == "__main__":
    main()
