"""Weights of modules that are no architecture of ours, under flax's names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PyTree
from pydantic import ValidationError

from jaxch5.errors import WeightsError
from jaxch5.models.normalization import Normalization
from jaxch5.models.pretrained import Metadata, Pretrained


def own_names(variables: Mapping[str, PyTree]) -> dict[str, np.ndarray]:
    """Arrays by the path to each, joined by slashes.

    Example:
        >>> list(own_names({"params": {"head": {"bias": np.zeros(2)}}}))
        ['params/head/bias']
    """
    flat = flatten_dict(jax.device_get(dict(variables)), sep="/")
    return {name: np.ascontiguousarray(value) for name, value in flat.items()}


def own_from_file(path: Path, metadata: Mapping[str, str]) -> Pretrained:
    """Weights from a safetensors file that holds them under such names.

    Args:
        path: of the file.
        metadata: of the file, as `Metadata` reads it.

    Raises:
        WeightsError: the file cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.flax import load_file

    try:
        variables = unflatten_dict(load_file(path), sep="/")
        said = Metadata.model_validate(dict(metadata))
    except ValidationError as error:
        first = error.errors()[0]
        raise WeightsError(f"{path}: its metadata, {first['loc'][0]}: {first['msg']}") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path}: is cut short or no safetensors file: {error}") from None
    return Pretrained(variables, Normalization(said.mean, said.std), said.classes, str(path))
