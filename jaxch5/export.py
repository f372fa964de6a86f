"""`jaxch5 export RUN --format F --out FILE`: writes a trained classifier for use elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from jaxch5.cli import Options, run
from jaxch5.util.text import printable


class ExportOptions(Options):
    """Write a trained classifier as one file, or as a folder for timm.

    safetensors: torchvision's names. With a linear head, torchvision's and timm's networks load
    everything, strictly; with a concat_pool head (the default for your own pictures), their
    bodies load what does not begin with `head.`. fastai: the names of fastai's `vision_learner`
    with torchvision's ResNets, whose model loads everything, strictly; for a concat_pool head only.
    PyTorch's networks want pictures normalized by the mean and deviation in the file. timm: a
    folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` loads, for a linear head;
    its README.md has the lines that prepare pictures. onnx: a program with its weights, in float32,
    from pictures of the network's `size`, in uint8, to probabilities, for any number of pictures,
    with the extra `onnx`; its doc_string has the lines that prepare pictures. stablehlo:
    a program with its weights, from the middle squares of pictures, in uint8 and of `presize`
    pixels, to probabilities, for jax alone, on a CPU and on an NVIDIA GPU; docs/exporting.md
    has the lines that call it. learner: what `load_learner` and `predict` take. Each names
    classes, sizes, crop, mean, deviation and head, and the same run gives the same bytes each time.
    """

    run: CliPositionalArg[Path] = Field(description="run directory, or a learner's file")
    format: Literal["safetensors", "fastai", "timm", "onnx", "stablehlo", "learner"] = Field(
        "safetensors", description="format of the file"
    )
    out: Path | None = Field(
        None,
        description="the file or folder; by default model.safetensors, fastai.safetensors, "
        "model-timm, model.onnx, model.stablehlo or learner.safetensors",
    )


FILES = {
    "safetensors": "model.safetensors",
    "fastai": "fastai.safetensors",
    "timm": "model-timm",
    "onnx": "model.onnx",
    "stablehlo": "model.stablehlo",
    "learner": "learner.safetensors",
}
NOTES = {
    "timm": "; its README.md has the lines that prepare pictures",
    "onnx": "; its doc_string has the lines that prepare pictures",
}


def export(options: ExportOptions) -> dict[str, Any]:
    """Writes a classifier to a file or folder; returns its path, format and size in bytes."""
    from jaxch5.results.artifacts import write_artifact
    from jaxch5.results.predictor import load_learner

    out = options.out or Path(FILES[options.format])
    predictor = load_learner(options.run, options.architecture(), options.task())
    size = write_artifact(predictor, out, options.format)
    if not options.json_output:
        note = NOTES.get(options.format, "")
        print(printable(f"{options.format}  {size / 1e6:.1f} MB  {out}{note}"))
    return {"file": str(out), "format": options.format, "bytes": size}


def main() -> int:
    return run(export, ExportOptions, "jaxch5 export")


if __name__ == "__main__":
    sys.exit(main())
