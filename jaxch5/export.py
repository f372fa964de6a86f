"""`python -m jaxch5.export RUN --format F --out FILE`: a trained classifier for use elsewhere."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8
from pydantic import Field
from pydantic_settings import CliPositionalArg

from jaxch5.cli import Options, run
from jaxch5.errors import CheckpointError
from jaxch5.models.weights import export_state_dict
from jaxch5.predictor import Predictor, load_learner


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
    out = options.out or Path(FILES[options.format])
    content = FORMATS[options.format](load_learner(options.run))
    write_file(out, content)
    if not options.json_output:
        print(f"{options.format}  {len(content) / 1e6:.1f} MB  {out}")
    return {"file": str(out), "format": options.format, "bytes": len(content)}


def as_safetensors(predictor: Predictor) -> bytes:
    """Weights by torchvision's names, with mean, deviation and classes as metadata."""
    return _safetensors(predictor, {})


def as_learner(predictor: Predictor) -> bytes:
    """The same with what `load_learner` needs: architecture, head, precision and sizes."""
    about = {name: str(value) for name, value in predictor.about._asdict().items()}
    return _safetensors(predictor, about)


def _safetensors(predictor: Predictor, metadata: dict[str, str]) -> bytes:
    from safetensors.numpy import save

    travelling = {
        "mean": predictor.normalization.mean,
        "std": predictor.normalization.std,
        "classes": predictor.classes,
    }
    metadata = metadata | {name: json.dumps(value) for name, value in travelling.items()}
    return save(export_state_dict(predictor.variables, predictor.about.arch), metadata)


def as_stablehlo(predictor: Predictor) -> bytes:
    """What `jax.export.deserialize` reads.

    Its `call` takes uint8 pictures [any batch, size, size, 3] and returns probabilities.
    """
    from jax import export

    def program(pictures: UInt8[Array, "batch size size 3"]) -> Float[Array, "batch classes"]:
        return predictor.probabilities(pictures.astype(jnp.float32) / 255)

    size = predictor.about.size
    (batch,) = export.symbolic_shape("batch")
    pictures = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.uint8)
    exported = export.export(jax.jit(program), platforms=("cpu", "cuda"))(pictures)
    return bytes(exported.serialize())


FORMATS: dict[str, Callable[[Predictor], bytes]] = {
    "safetensors": as_safetensors,
    "stablehlo": as_stablehlo,
    "learner": as_learner,
}


def write_file(path: Path, content: bytes) -> None:
    """Writes a file in one piece: a reader sees the old one or the new.

    Raises:
        CheckpointError: it cannot be written.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_bytes(content)
        scratch.replace(path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise CheckpointError(f"{path}: cannot be written: {error.strerror}") from None


def main() -> int:
    return run(export, ExportOptions, "python -m jaxch5.export")


if __name__ == "__main__":
    sys.exit(main())
