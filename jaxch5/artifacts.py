"""A trained classifier as one file: for PyTorch, for jax alone, and for jaxch5 again."""

from __future__ import annotations

import json
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from jaxch5.about import is_own
from jaxch5.errors import ConfigError
from jaxch5.models.own import own_names
from jaxch5.models.weights import export_state_dict
from jaxch5.predictor import Predictor


def as_safetensors(predictor: Predictor) -> bytes:
    """Weights by torchvision's names, with mean, deviation and classes as metadata.

    Raises:
        ConfigError: the network is a module of one's own, which has no such names.
    """
    arch = predictor.about.arch
    if is_own(arch):
        raise ConfigError(
            f"format = safetensors: has torchvision's names, and {arch} is a module of one's own; "
            "choose stablehlo, or learner, which load_learner(path, model=...) loads in Python"
        )
    return _safetensors(export_state_dict(predictor.variables, arch), predictor, {})


def as_learner(predictor: Predictor) -> bytes:
    """The same with what `load_learner` needs: architecture, head, precision and sizes.

    The weights of a module of one's own have flax's names.
    """
    about = {name: str(value) for name, value in predictor.about._asdict().items()}
    arch, variables = predictor.about.arch, predictor.variables
    weights = own_names(variables) if is_own(arch) else export_state_dict(variables, arch)
    return _safetensors(weights, predictor, about)


def _safetensors(
    weights: dict[str, np.ndarray], predictor: Predictor, metadata: dict[str, str]
) -> bytes:
    from safetensors.numpy import save

    travelling = {
        "mean": predictor.normalization.mean,
        "std": predictor.normalization.std,
        "classes": predictor.classes,
    }
    metadata = metadata | {name: json.dumps(value) for name, value in travelling.items()}
    return save(weights, metadata)


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
