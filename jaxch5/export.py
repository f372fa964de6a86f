"""`python -m jaxch5.export RUN --format F --out FILE`: a trained classifier for use elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from jaxch5.cli import Options, run
from jaxch5.text import printable


class ExportOptions(Options):
    """Write a trained classifier as one file.

    safetensors: torchvision's names and layouts, for PyTorch, timm and fastai. stablehlo: a
    program with its weights, from uint8 pictures to probabilities, for jax alone, on a CPU and on
    an NVIDIA GPU. learner: all that `load_learner` and `predict` need.
    """

    run: CliPositionalArg[Path] = Field(description="run directory, or a learner's file")
    format: Literal["safetensors", "stablehlo", "learner"] = Field(
        "safetensors", description="of the file"
    )
    out: Path | None = Field(
        None,
        description="the file; without it, model.safetensors, model.stablehlo or "
        "learner.safetensors",
    )


FILES = {
    "safetensors": "model.safetensors",
    "stablehlo": "model.stablehlo",
    "learner": "learner.safetensors",
}


def export(options: ExportOptions) -> dict[str, Any]:
    """Writes the file; returns its name, size and format."""
    from jaxch5.artifacts import FORMATS
    from jaxch5.files import write_file
    from jaxch5.predictor import load_learner

    out = options.out or Path(FILES[options.format])
    content = FORMATS[options.format](load_learner(options.run))
    write_file(out, content)
    if not options.json_output:
        print(printable(f"{options.format}  {len(content) / 1e6:.1f} MB  {out}"))
    return {"file": str(out), "format": options.format, "bytes": len(content)}


def main() -> int:
    return run(export, ExportOptions, "python -m jaxch5.export")


if __name__ == "__main__":
    sys.exit(main())
