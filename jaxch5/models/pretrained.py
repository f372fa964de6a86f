"""Loads pretrained weights from the Hugging Face hub and from files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PyTree

from jaxch5.errors import WeightsError
from jaxch5.framing import Size, height_and_width
from jaxch5.models.convert import architecture_of, classes_of_head, find_network
from jaxch5.models.hub import FILES, fetch, place_of
from jaxch5.models.provenance import Known, known_of
from jaxch5.models.reader import read_metadata, read_weights, refuse_damaged
from jaxch5.models.registry import spec_of
from jaxch5.models.spec import IMAGENET, HubWeights, ModelSpec, Normalization
from jaxch5.models.weights import import_network
from jaxch5.util.libraries import empty_is_unset
from jaxch5.view import WHOLE, View


class Pretrained(NamedTuple):
    """Holds weights and what is known about them.

    Attributes:
        variables: `{"params": ..., "batch_stats": ...}` of a network, or of its body alone.
        normalization: Mean and standard deviation that the weights were trained with; the
            architecture's if those are not known.
        classes: Names of the head's classes; None if these are not known.
        origin: Where the weights come from, for messages.
        normalized_by: Where the normalization is stated, for messages.
        left_out: Names of the file's entries that belong to neither the body nor a known head.
        others: Other parts of the file that hold a network.
        view: View with which the weights were tested; `WHOLE` if it is not known.
        size: Size of the pictures on which the weights were tested; None if it is not known.
        licence: Licence of the weights; None if it is not known.
        head: Kind of head that is stated; "" if none is.
        remarks: Other facts about the weights that a message should state.
        record: Record of the epoch that ended with the weights, if they are a run's; {} if not, or
            if they were saved within an epoch.
    """

    variables: dict[str, PyTree]
    normalization: Normalization
    classes: tuple[str, ...] | None
    origin: str
    normalized_by: str = ""
    left_out: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    view: View = WHOLE
    size: Size | None = None
    licence: str | None = None
    head: str = ""
    remarks: tuple[str, ...] = ()
    record: Mapping[str, Any] = {}


@empty_is_unset()
def from_hub(
    arch: str | ModelSpec,
    cache: Path | None = None,
    endpoint: str | None = None,
    weights: str = "imagenet",
    normalization: Normalization | None = None,
) -> Pretrained:
    """Returns an architecture's weights from the hub's cache, into which they are fetched once.

    Args:
        arch: The architecture.
        cache: Folder for fetched files; None means huggingface-hub's default (`HF_HOME`).
        endpoint: Address of the hub; None means huggingface-hub's default (`HF_ENDPOINT`).
        weights: "imagenet", a tag or a repository; see `place_of`.
        normalization: Mean and standard deviation that the weights were trained with; if None,
            those that are known are used.

    Raises:
        WeightsError: The weights do not exist, cannot be fetched or read, or do not fit.
    """
    spec = spec_of(arch)
    place = place_of(weights, spec)
    file = fetch(place, cache, endpoint)
    found = from_file(file, spec, normalization, one=True, hub=place.known)
    revision = f"@{place.revision}" if place.revision else ""
    return found._replace(origin=place.repository + revision)


def holds_weights(folder: Path) -> bool:
    """Checks whether a folder holds a file of weights with a name that is usual on the hub."""
    return _inside(folder) is not None


def from_file(
    path: Path,
    arch: str | ModelSpec,
    normalization: Normalization | None = None,
    beside: bool = True,
    head: str = "",
    one: bool = False,
    hub: HubWeights | None = None,
) -> Pretrained:
    """Reads a `.safetensors` file or, with the extra `torch`, a PyTorch file (`.pth` etc.).

    The metadata of a safetensors file may state `mean`, `std` and `classes` as JSON, as in files
    that `export` writes. Descriptions beside the file, such as timm's `config.json`, are read too.

    Args:
        path: A file whose entries have the architecture's names (flax's names if the architecture
            has none), or a folder that is laid out like a repository on the hub. `FILE#PART` names
            one of a file's state dicts.
        arch: The architecture that the weights should belong to.
        normalization: Mean and standard deviation that the weights were trained with; if None,
            those that are known are used.
        beside: Whether descriptions beside the file are read too; a learner's file needs none,
            since it states everything itself.
        head: The most likely kind of head, which is tried first.
        one, hub: See `known_of`.

    Raises:
        WeightsError: A file cannot be read, files contradict each other, or the weights do not fit.
    """
    path, part = _part(path)
    if inside := _inside(path):
        path, one = inside, True
    tensors, metadata = read_weights(path)
    spec = spec_of(arch)
    known = known_of(path, metadata, spec, normalization, beside, one, hub)
    try:
        if spec.names is None:
            read, remarks = _of_flax(tensors), known.remarks
            colours, classes, source = known[:3]
            own = Pretrained(read, colours, classes, str(path), source, remarks=remarks)
            return own._replace(size=known.size, head=known.head)
        found = find_network(tensors, spec, part, head)
        if spec.recognizes and (holds := architecture_of(found.entries)) not in (spec.name, None):
            line = f"holds weights of {holds}, not of {spec.name} (--model.arch {holds})"
            raise WeightsError(line)
        variables, left_out = import_network(found, spec, head)
        refuse_damaged(variables)
        count = classes_of_head(variables, spec, head)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    for who, said in known.outputs:
        if count is not None and count != said:
            raise WeightsError(f"{who} states {said} outputs, but the head of {path} has {count}")
    origin = f"{path}#{found.part}" if found.others else str(path)
    return Pretrained(
        variables,
        known.normalization,
        known.classes,
        origin,
        known.source,
        tuple(left_out),
        tuple(f"#{other}" if other else "the file itself" for other in found.others),
        known.view,
        known.size,
        known.licence,
        known.head,
        known.remarks,
    )


def stated(path: Path, spec: ModelSpec, one: bool = False, hub: HubWeights | None = None) -> Known:
    """Returns what is stated about weights, apart from their colours, without reading arrays.

    Args:
        path, spec, one, hub: See `from_file`, whose `arch` is `spec`.

    Raises:
        WeightsError: A description cannot be read, or contradicts the architecture.
    """
    path, _ = _part(path)
    if inside := _inside(path):
        path, one = inside, True
    return known_of(path, read_metadata(path), spec, IMAGENET, True, one, hub)


def for_size(pretrained: Pretrained, spec: ModelSpec, sides: tuple[int, int]) -> Pretrained:
    """Returns weights adapted to pictures of another size; see `ModelSpec.resample`.

    Args:
        pretrained: Weights to adapt.
        spec: Their architecture.
        sides: Height and width of the pictures, in pixels.

    Raises:
        WeightsError: Position embeddings cannot be interpolated.
    """
    flat = flatten_dict(pretrained.variables)
    before = None if pretrained.size is None else height_and_width(pretrained.size)
    try:
        changed = {
            path: jnp.asarray(spec.resample[path[-1]](np.asarray(value), sides, before))
            for path, value in flat.items()
            if path[-1] in spec.resample
        }
    except WeightsError as error:
        raise WeightsError(f"{pretrained.origin}: {error}") from None
    return pretrained._replace(variables=unflatten_dict(flat | changed))


def flax_names(variables: Mapping[str, PyTree]) -> dict[str, np.ndarray]:
    """Returns arrays, keyed by paths with slashes, for modules whose variables have no other names.

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


def _inside(folder: Path) -> Path | None:
    """Returns the weights in a folder that is laid out like a repository on the hub, if it is."""
    return next((folder / name for name in FILES if (folder / name).is_file()), None)


def _part(path: Path) -> tuple[Path, str]:
    """Splits a path into a file and the part after `#`, unless a file with the full name exists."""
    name, sign, part = path.name.rpartition("#")
    return (path, "") if path.exists() or not sign else (path.with_name(name), part)
