"""`jaxch5 export RUN --format F --out FILE`: writes a trained classifier for use elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from jaxch5.cli import Options, run
from jaxch5.errors import ConfigError
from jaxch5.util.address import run_or_learner
from jaxch5.util.files import is_standard_output
from jaxch5.util.text import printable


class ExportOptions(Options):
    """Write a trained classifier as one file, or as a folder for timm.

    safetensors: weights under torchvision's or timm's names. With a linear head, that library's
    network loads all of the weights (strict=True). With a concat_pool head (the default for your
    own pictures), it can load only the body's weights, whose names do not begin with `head.`.
    fastai: weights under the names that fastai's `vision_learner` uses with torchvision's ResNets.
    A model made by that function loads all of them; the head has to be concat_pool. In PyTorch,
    normalize pictures by the mean and standard deviation in the file's metadata, with either of
    these formats. timm: a folder for `timm.create_model("local-dir:FOLDER", pretrained=True)`; the
    head has to be linear or mean_pool. The folder's README.md shows how to prepare pictures.

    onnx (needs the extra `onnx`): a float32 program with its weights. It takes any number of uint8
    pictures of the network's `size`, and returns probabilities; its doc_string shows how to prepare
    pictures. stablehlo: a program with its weights, which needs nothing but jax to run on a CPU or
    an NVIDIA GPU; docs/exporting.md shows how to prepare pictures and how to call the program.
    learner: a file for `load_learner` and `predict`.

    Every format stores the classes, the sizes, the crop, the mean and standard deviation, and the
    kind of head. Exporting a run again gives the same bytes.
    """

    run: CliPositionalArg[Path] = Field(description="run directory, or a learner's file")
    format: Literal["safetensors", "fastai", "timm", "onnx", "stablehlo", "learner"] = Field(
        "safetensors", description="format of the file"
    )
    out: Path | None = Field(
        None,
        description="file or folder to write; by default, depending on the format, "
        "model.safetensors, fastai.safetensors, model-timm, model.onnx, model.stablehlo or "
        "learner.safetensors",
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
    "timm": "; its README.md has the lines of code that prepare pictures",
    "onnx": "; its doc_string has the lines of code that prepare pictures",
}


def export(options: ExportOptions) -> dict[str, Any]:
    """Writes a classifier to a file or folder; returns its path, format and size in bytes.

    Raises:
        ConfigError: The file would replace the learner's file that it is made from, or both the
            export and the JSON document would go to standard output.
    """
    from jaxch5.results.artifacts import write_artifact
    from jaxch5.results.predictor import load_learner

    out = options.out or Path(FILES[options.format])
    read = run_or_learner(options.run)
    if options.format != "learner" and read.is_file() and out.exists() and out.samefile(read):
        raise ConfigError(
            f"{out}: is the learner's file itself, and a file of format = {options.format} cannot "
            "take its place; name another file with --out"
        )
    if (printed := is_standard_output(out)) and options.json_output:
        raise ConfigError(f"out = {out}: cannot be combined with --json, which prints there too")
    predictor = load_learner(options.run, options.architecture(), options.task())
    size = write_artifact(predictor, out, options.format)
    if not options.json_output:
        note = NOTES.get(options.format, "")
        line = printable(f"{options.format}  {size / 1e6:.1f} MB  {out}{note}")
        # After the export itself, the line would be taken for a part of it.
        print(line, file=sys.stderr if printed else sys.stdout)
    return {"file": str(out), "format": options.format, "bytes": size}


def main() -> int:
    return run(export, ExportOptions, "jaxch5 export")


if __name__ == "__main__":
    sys.exit(main())
