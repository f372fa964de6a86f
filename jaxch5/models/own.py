"""Weights of modules that are no architecture of ours, under flax's names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PyTree

from jaxch5.errors import WeightsError
from jaxch5.models.pretrained import Pretrained
from jaxch5.models.provenance import known_of
from jaxch5.models.weights import refuse_damaged


def own_names(variables: Mapping[str, PyTree]) -> dict[str, np.ndarray]:
    """Returns arrays by the path to each, joined by slashes.

    Example:
        >>> list(own_names({"params": {"head": {"bias": np.zeros(2)}}}))
        ['params/head/bias']
    """
    flat = flatten_dict(jax.device_get(dict(variables)), sep="/")
    return {name: np.ascontiguousarray(value) for name, value in flat.items()}


def own_from_file(path: Path, metadata: Mapping[str, str]) -> Pretrained:
    """Returns weights from a safetensors file that holds them under such names.

    Args:
        path: the file.
        metadata: what the file says of itself, as `jaxch5.models.provenance.Metadata` reads it.

    Raises:
        WeightsError: the file cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.flax import load_file

    try:
        variables = unflatten_dict(load_file(path), sep="/")
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path}: is cut short or no safetensors file: {error}") from None
    try:
        refuse_damaged(variables)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    known = known_of(path, metadata, "", beside=False)
    return Pretrained(variables, known.normalization, known.classes, str(path), known.source)
