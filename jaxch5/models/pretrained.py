"""Pretrained weights: ImageNet's from the Hugging Face hub, and files of weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PyTree

from jaxch5.errors import WeightsError
from jaxch5.models.convert import architecture_of, find_network
from jaxch5.models.provenance import known_of
from jaxch5.models.reader import read_weights, reason_of, refuse_damaged
from jaxch5.models.registry import spec_of
from jaxch5.models.spec import ModelSpec, Normalization
from jaxch5.models.weights import import_network
from jaxch5.util.libraries import empty_is_unset
from jaxch5.view import WHOLE, View

FILE = "model.safetensors"
# Time limit for each of the hub's few network addresses to answer; the file may take longer.
ANSWER_SECONDS = 3.0


class Pretrained(NamedTuple):
    """Weights, with what belongs to them.

    Attributes:
        variables: `{"params": ..., "batch_stats": ...}` of a network, or of its body alone.
        normalization: normalization that they were trained with.
        classes: names of their head's classes; None where they are not known.
        origin: where they come from, for messages.
        normalized_by: who says what the normalization is, for messages.
        view: what they were tested on of each picture; all of it where that is not known.
        left_out: entries of the file that belong to neither the body nor a head known here.
        others: other parts of the file that hold a network.
    """

    variables: dict[str, PyTree]
    normalization: Normalization
    classes: tuple[str, ...] | None
    origin: str
    normalized_by: str = ""
    left_out: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    view: View = WHOLE


@empty_is_unset()
def from_hub(
    arch: str | ModelSpec, cache: Path | None = None, endpoint: str | None = None
) -> Pretrained:
    """Returns ImageNet's weights of an architecture, fetched once into the hub's cache.

    Args:
        arch: the architecture.
        cache: folder of fetched files; None is huggingface-hub's own (`HF_HOME`).
        endpoint: address of the hub; None is huggingface-hub's own (`HF_ENDPOINT`).

    Raises:
        WeightsError: there are none, or they are not in the cache and the hub does not serve them.
    """
    spec = spec_of(arch)
    if not spec.weights:
        raise WeightsError(
            f"{spec.name}: names no ImageNet weights on the hub; name a file or a run with "
            "--model.weights PATH"
        )
    import huggingface_hub as hub
    from huggingface_hub.errors import HTTPError

    repository = spec.weights[0].repository
    file = hub.try_to_load_from_cache(repository, FILE, cache_dir=cache)
    if not isinstance(file, str):
        url = hub.hf_hub_url(repository, FILE, endpoint=endpoint)
        try:
            # Asked once beforehand: a download keeps asking a hub in trouble for most of a minute.
            said = hub.get_hf_file_metadata(url, timeout=ANSWER_SECONDS)
            # huggingface-hub makes paths of these, and follows them wherever they lead.
            for name in (said.etag, said.commit_hash):
                if name is not None and not re.fullmatch(r"[A-Za-z0-9_-]+", name):
                    raise OSError(f"it names a file {name!r}")
            file = hub.hf_hub_download(
                repository,
                FILE,
                cache_dir=cache,
                endpoint=endpoint,
                etag_timeout=ANSWER_SECONDS,
            )
        except (HTTPError, OSError) as error:
            raise WeightsError(
                f"{repository}: the hub does not give it ({reason_of(error)}); "
                f"fetch {url} elsewhere and name the file with --model.weights PATH"
            ) from None
    weights = from_file(Path(file), spec, spec.normalization)
    tested = View(spec.weights[0].crop, spec.weights[0].interpolation)
    origin = f"ImageNet ({repository})"
    return weights._replace(origin=origin, normalized_by=repository, view=tested)


def from_file(
    path: Path,
    arch: str | ModelSpec,
    normalization: Normalization | None = None,
    beside: bool = True,
    head: str = "",
) -> Pretrained:
    """Reads weights: `.safetensors`, or PyTorch's (`.pth`, `.pt`) with the extra `torch`.

    A safetensors file may say in its metadata, as JSON, its `mean`, `std` and `classes`; those that
    `export` writes do. timm's `config.json` is read where it is beside a file.

    Args:
        path: the file, with the architecture's names (of a module without any, flax's); `FILE#PART`
            names one of several state dicts that it holds.
        arch: the architecture that they should be of.
        normalization: mean and deviation of their training; None takes what the file says.
        beside: whether files beside it are read; a learner's file says everything itself.
        head: kind of head that they have most likely, which is looked for first.

    Raises:
        WeightsError: the file cannot be read, or does not fit.
    """
    path, part = _part(path)
    tensors, metadata = read_weights(path)
    spec = spec_of(arch)
    known = known_of(path, metadata, spec, normalization, beside)
    try:
        if spec.names is None:
            return Pretrained(_of_flax(tensors), *known[:2], str(path), known.source)
        found = find_network(tensors, spec, part, head)
        if spec.recognizes and (holds := architecture_of(found.entries)) not in (spec.name, None):
            line = f"holds weights of {holds}, not of {spec.name} (--model.arch {holds})"
            raise WeightsError(line)
        variables, left_out = import_network(found, spec, head)
        refuse_damaged(variables)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    origin = f"{path}#{found.part}" if found.others else str(path)
    return Pretrained(
        variables,
        known.normalization,
        known.classes,
        origin,
        known.source,
        tuple(left_out),
        tuple(f"#{other}" if other else "the file itself" for other in found.others),
    )


def for_size(pretrained: Pretrained, spec: ModelSpec, sides: tuple[int, int]) -> Pretrained:
    """Returns weights whose positions are those of pictures of other sides; see `resample`.

    Args:
        pretrained: Weights to take.
        spec: Their architecture.
        sides: Height and width of the pictures, pixels.

    Raises:
        WeightsError: They cannot be interpolated.
    """
    flat = flatten_dict(pretrained.variables)
    try:
        changed = {
            path: jnp.asarray(spec.resample[path[-1]](np.asarray(value), sides))
            for path, value in flat.items()
            if path[-1] in spec.resample
        }
    except WeightsError as error:
        raise WeightsError(f"{pretrained.origin}: {error}") from None
    return pretrained._replace(variables=unflatten_dict(flat | changed))


def flax_names(variables: Mapping[str, PyTree]) -> dict[str, np.ndarray]:
    """Returns arrays by their paths, joined by slashes: names for modules that have no others.

    Example:
        >>> list(flax_names({"params": {"head": {"bias": np.zeros(2)}}}))
        ['params/head/bias']
    """
    flat = flatten_dict(jax.device_get(dict(variables)), sep="/")
    return {name: np.asarray(value, order="C") for name, value in flat.items()}


def _of_flax(tensors: Mapping[str, np.ndarray]) -> dict[str, PyTree]:
    variables: dict[str, PyTree] = unflatten_dict(
        {tuple(name.split("/")): jnp.asarray(value) for name, value in tensors.items()}
    )
    refuse_damaged(variables)
    return variables


def _part(path: Path) -> tuple[Path, str]:
    """Returns a file, and the part of it that is named after `#`, where no file is named so."""
    name, sign, part = path.name.rpartition("#")
    return (path, "") if path.exists() or not sign else (path.with_name(name), part)
