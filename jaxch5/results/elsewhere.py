"""Describes a classifier for use without jaxch5: its preprocessing, and timm's configuration."""

from __future__ import annotations

import inspect
import io
import json
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image, ImageCms, ImageOps

from jaxch5.errors import ConfigError
from jaxch5.framing import height_and_width
from jaxch5.models.convert import MARK, entries_of
from jaxch5.models.maps import in_full
from jaxch5.results.predictor import Predictor

# timm's names for the methods of `Framing`.
CROP_MODES = {"crop": "center", "squish": "squash", "pad": "border"}
# The end of the text for an ONNX program or a timm folder: code that runs without jaxch5.
RECIPE = """
{imports}from PIL import Image, ImageCms, ImageOps


{pixels}

pictures = np.stack([pixels("1.jpg", {seen})])
{call}"""
ONNX = """The program takes `pictures`, uint8 [any number, {height}, {width}, 3], as `pixels` below
returns them, and normalizes them; its `probabilities` are in the order of the metadata's `classes`.
"""
IMPORTS = """import io
import math
from contextlib import suppress

import numpy as np
"""
CALL_ONNX = """session = onnxruntime.InferenceSession("model.onnx")
(probabilities,) = session.run(None, {"pictures": pictures})
"""
TIMM = """---
library_name: timm
---

A {arch} for {count} classes: `timm.create_model("local-dir:FOLDER", pretrained=True)` loads it. It
takes pictures as `pixels` below returns them, normalized as below; the transforms that timm creates
from `config.json` give similar pictures. Run these lines in this folder:

```python"""
CALL_TIMM = """model = timm.create_model("local-dir:.", pretrained=True).eval()
mean, std = (torch.tensor(model.pretrained_cfg[name]) for name in ("mean", "std"))
with torch.no_grad():
    logits = model(((torch.from_numpy(pictures) / 255 - mean) / std).permute(0, 3, 1, 2))
{last}
```
"""
OWN_TASK = (
    "# The task {task} has an activation of its own, which turns the logits into probabilities."
)


def pixels(
    path: str,
    presize: int,
    size: tuple[int, int],
    crop_pct: float = 1.0,
    interpolation: str = "bilinear",
    method: str = "crop",
    pad_mode: str = "reflection",
) -> np.ndarray:
    """Reads a picture as the network takes it: uint8 [height, width, 3], with the sides `size`."""
    picture: Image.Image = Image.open(path)
    picture.draft("RGB", (presize, presize))  # decodes a large JPEG at a reduced size
    # Pillow opens colours of 16 bits as RGB, but says in `tile` how they are stored: RGB;16B.
    stored = str(getattr(picture, "tile", ""))
    if picture.mode.startswith(("I", "F")) or any(f";16{order}" in stored for order in "BLN"):
        raise ValueError(
            f"{path}: has more than 8 bits; this code cannot tell which values are black and white"
        )
    picture = ImageOps.exif_transpose(picture)
    profile = picture.info.get("icc_profile")
    if picture.has_transparency_data:  # transparent pixels are blended with white
        paper, picture = Image.new("RGBA", picture.size, "white"), picture.convert("RGBA")
        picture = Image.alpha_composite(paper, picture)
    if picture.mode not in ("L", "CMYK", "LAB"):
        picture = picture.convert("RGB")
    if profile:
        content, srgb = io.BytesIO(profile), ImageCms.createProfile("sRGB")
        with suppress(ImageCms.PyCMSError):  # a profile that does not fit is ignored
            picture = ImageCms.profileToProfile(picture, content, srgb, outputMode="RGB") or picture
    picture, smooth = picture.convert("RGB"), Image.Resampling.BILINEAR
    left = top = 0.0
    if method == "crop":
        high, wide = (round(side * presize / min(size)) for side in size)
        picture = ImageOps.fit(picture, (wide, high), smooth)
    elif method == "squish":
        picture = picture.resize((presize, presize), smooth)
    else:
        picture = ImageOps.contain(picture, (presize, presize), smooth)
        now = picture.height, picture.width
        scale = max(now[0] / size[0], now[1] / size[1])
        free = [(size[axis] * scale - now[axis]) / 2 for axis in (0, 1)]
        added = [math.ceil(side) for side in free]
        modes: dict = {"reflection": "symmetric", "border": "edge"}
        if pad_mode in modes:
            around = [(side, side) for side in (*added, 0)]
            picture = Image.fromarray(np.pad(np.asarray(picture), around, modes[pad_mode]))
        else:
            colour = "black" if pad_mode == "zeros" else pad_mode
            picture = ImageOps.expand(picture, (added[1], added[0]), colour)
        top, left = np.subtract(added, free)
    left += (1 - crop_pct) * (picture.width / 2 - left)
    top += (1 - crop_pct) * (picture.height / 2 - top)
    seen = left, top, picture.width - left, picture.height - top
    return np.asarray(picture.resize(size[::-1], Image.Resampling[interpolation.upper()], seen))


def onnx_program(predictor: Predictor) -> tuple[Callable[[Array], Array], tuple[int, int, int]]:
    """Returns the function that is written as ONNX, and the shape of the pictures that it takes.

    A network with a `dtype` computes in float32 here: most runtimes on a CPU require float32.
    """
    model, size = in_full(predictor.model), height_and_width(predictor.about.size)
    rest = predictor.classes, predictor.normalization, predictor.about, predictor.task
    exact = Predictor(model, predictor.variables, *rest, predictor.spec)

    def program(pictures: UInt8[Array, "n height width 3"]) -> Float[Array, "n classes"]:
        return exact.probabilities(pictures.astype(jnp.float32) / 255)

    return program, (*size, 3)


def recipe(predictor: Predictor, form: str) -> str:
    """Returns the text for an ONNX program or a timm folder, with code that runs without jaxch5.

    Args:
        predictor: The classifier.
        form: Format, "onnx" or "timm".
    """
    about, size = predictor.about, height_and_width(predictor.about.size)
    # The activation of a user-defined task cannot be expressed in PyTorch.
    activation = {"softmax": "softmax(1)", "sigmoid": "sigmoid()"}.get(predictor.task.name)
    last = f"probabilities = logits.{activation}" if activation else OWN_TASK
    peers = {"onnx": "onnxruntime", "timm": "timm\nimport torch"}[form]
    head, call = {"onnx": (ONNX, CALL_ONNX), "timm": (TIMM, CALL_TIMM)}[form]
    seen = about.presize, size, *vars(about.view).values(), *vars(about.framing).values()
    values = {"arch": about.arch, "count": len(predictor.classes)}
    values |= {"height": size[0], "width": size[1]}
    lines = RECIPE.format(
        imports=f"{IMPORTS}import {peers}\n",
        pixels=inspect.getsource(pixels),
        seen=", ".join(map(json.dumps, seen)).replace("[", "(").replace("]", ")"),
        call=call.replace("{last}", last.format(task=predictor.task.name)),
    )
    return head.format(**values) + lines


def timm_config(predictor: Predictor) -> dict[str, Any]:
    """Returns the content of timm's `config.json`, as `timm.models.save_for_hf` writes it.

    Raises:
        ConfigError: timm does not have this network, or does not have it with this head.
    """
    spec, about, count = predictor.spec, predictor.about, len(predictor.classes)
    if not any(found.repository.startswith(f"timm/{spec.name}.") for found in spec.weights):
        raise ConfigError(
            f"format = timm: no weights named timm/{spec.name}.TAG are known, so timm does not "
            "have this network; choose stablehlo, onnx or learner"
        )
    of_mean = about.head == "mean_pool"
    if spec.heads and about.head != spec.heads[0] and not of_mean:
        raise ConfigError(
            f"format = timm: timm's {spec.name} has no head {about.head}; train with "
            f"--model.head {spec.heads[0]}, or choose another format"
        )
    size = height_and_width(about.size)
    # A network with an embedding for each position is built for one size of pictures.
    fixed: dict[str, Any] = {"img_size": list(size)} if spec.resample else {}
    # By default, timm's networks that average over the patches apply their last norm to the mean.
    pool: dict[str, Any] = {"global_pool": "avg", "fc_norm": False} if of_mean else {}
    entries = entries_of(spec, about.head)
    (classifier,) = (entry for entry in entries if MARK in entry.shape and len(entry.shape) == 2)
    (first,) = (entry for entry in entries if entry.shape[1:2] == (3,) and len(entry.shape) == 4)
    return {
        "architecture": spec.name,
        "num_classes": count,
        "num_features": classifier.shape[1],
        **({"global_pool": "avg"} if of_mean else {}),
        "label_names": list(predictor.classes),
        "model_args": {"num_classes": count, "in_chans": 3, **fixed, **pool},
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [3, *size],
            "fixed_input_size": bool(fixed),
            "interpolation": about.interpolation,
            "crop_pct": about.crop_pct,
            "crop_mode": CROP_MODES[about.method],
            "mean": list(predictor.normalization.mean),
            "std": list(predictor.normalization.std),
            "num_classes": count,
            "first_conv": first.name.removesuffix(".weight"),
            "classifier": classifier.name.removesuffix(".weight"),
            **({"license": about.licence} if about.licence else {}),
        },
    }
