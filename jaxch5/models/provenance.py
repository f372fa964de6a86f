"""What is known about weights besides their numbers: mean, deviation and classes, and from where.

A safetensors file may say it in its metadata, as `export` writes it. Beside a file may be timm's
`config.json` (`pretrained_cfg`) or the `preprocessor_config.json` of transformers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, Field, FiniteFloat, Json, ValidationError

from jaxch5.config.ranges import PositiveShare, Share
from jaxch5.errors import WeightsError
from jaxch5.models.spec import IMAGENET, ModelSpec, Normalization

Deviation = Annotated[float, Field(gt=0, allow_inf_nan=False)]
BESIDE = ("config.json", "preprocessor_config.json")
# A description is a page of text; anything longer is not one.
LONGEST_DESCRIPTION = 1_000_000
SET_OTHERS = "--model.mean and --model.std set others"
SETTINGS = "--model.mean and --model.std"


class Metadata(BaseModel):
    """What a safetensors file may say about its weights, each as JSON."""

    mean: Json[tuple[FiniteFloat, FiniteFloat, FiniteFloat]] | None = None
    std: Json[tuple[Deviation, Deviation, Deviation]] | None = None
    classes: Json[tuple[str, ...]] | None = None


class Description(BaseModel):
    """What a file beside the weights may say about them; mean and deviation of values 0 to 1."""

    mean: tuple[Share, Share, Share] | None = None
    std: tuple[PositiveShare, PositiveShare, PositiveShare] | None = None
    label_names: tuple[str, ...] | None = None


class Known(NamedTuple):
    """What is known about weights.

    Attributes:
        normalization: mean and deviation of their training; the architecture's where nothing is
            known.
        classes: names of their head's classes; None where they are not known.
        source: who says what the normalization is, for messages.
    """

    normalization: Normalization
    classes: tuple[str, ...] | None
    source: str


def known_of(
    path: Path,
    metadata: Mapping[str, str],
    spec: ModelSpec,
    given: Normalization | None = None,
    beside: bool = True,
) -> Known:
    """Reads what a file of weights, and the files beside it, say.

    Args:
        path: the file.
        metadata: that of a safetensors file.
        spec: their architecture; a description of another one is ignored.
        given: mean and deviation that the settings name, which win.
        beside: whether other files are looked at.

    Raises:
        WeightsError: they contradict each other, or say what cannot be meant.
    """
    try:
        said = Metadata.model_validate(metadata)
    except ValidationError as error:
        first = error.errors()[0]
        raise WeightsError(f"{path}: its metadata, {first['loc'][0]}: {first['msg']}") from None
    found = {}
    if given is None and (own := _normalization(said, f"{path}: its metadata")):
        found["its metadata"] = own
    classes, passed_over = said.classes, ""
    for file in (path.parent / name for name in (BESIDE if beside else ())):
        values = _read(file)
        of = values.get("architecture")
        if isinstance(of, str) and of.partition(".")[0] != spec.name:
            passed_over += f" ({file.name} beside it is of {of})"
            continue
        if given is not None:
            values = {key: value for key, value in values.items() if key == "label_names"}
        description = _described(file, values)
        classes = classes or description.label_names
        if theirs := _normalization(description, str(file)):
            found[file.name] = theirs
    if given is not None:
        return Known(given, classes, SETTINGS)
    if not found:
        whose = "ImageNet's" if spec.normalization == IMAGENET else f"those of {spec.name}"
        source = f"{whose}, since nothing says which they were trained with{passed_over}"
        return Known(spec.normalization, classes, f"{source}; {SET_OTHERS}")
    (source, normalization), *others = found.items()
    for name, other in others:
        if other != normalization:
            raise WeightsError(
                f"{path}: {source} and {name} contradict each other: mean {[*normalization.mean]} "
                f"and {[*other.mean]}, deviation {[*normalization.std]} and {[*other.std]}; "
                f"say which with {SETTINGS}"
            )
    return Known(normalization, classes, " and ".join(found))


def _normalization(said: Metadata | Description, where: str) -> Normalization | None:
    if said.mean is None and said.std is None:
        return None
    if said.mean is None or said.std is None:
        lacks = "mean" if said.mean is None else "std"
        raise WeightsError(f"{where}: lacks {lacks}; say both with {SETTINGS}")
    return Normalization(said.mean, said.std)


def _read(file: Path) -> dict[str, Any]:
    """Returns the known keys of a description; none if the file is not a description."""
    try:
        if not file.is_file():
            return {}
        if file.stat().st_size > LONGEST_DESCRIPTION:
            raise ValueError("it is too long")
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(
            f"{file}: is beside the weights and cannot be read ({error}); move it away, or say "
            f"what they were trained with by {SETTINGS}"
        ) from None
    if not isinstance(values, dict):
        return {}
    # timm's, in which older files have all at the top; then the names of transformers.
    within = values.get("pretrained_cfg")
    values = values | (within if isinstance(within, dict) else {})
    names = {"image_mean": "mean", "image_std": "std"}
    known = {names.get(key, key): value for key, value in values.items()}
    return {key: known[key] for key in ("architecture", *Description.model_fields) if key in known}


def _described(file: Path, values: Mapping[str, Any]) -> Description:
    try:
        return Description.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name, value = first["loc"][0], values[str(first["loc"][0])]
        raise WeightsError(
            f"{file}: {name} = {value}: {first['msg']}; say it with {SETTINGS}, of values 0 to 1"
        ) from None
