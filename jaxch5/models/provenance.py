"""Finds what is known about weights: normalization, classes, view and licence.

A safetensors file may state these in its metadata, as files that `export` writes do. Beside a file
there may be timm's `config.json` (`pretrained_cfg`) or transformers' `preprocessor_config.json`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, Field, FiniteFloat, Json, NonNegativeInt, ValidationError

from jaxch5.config.ranges import PositiveShare, Share
from jaxch5.errors import WeightsError
from jaxch5.framing import Size, parse_size
from jaxch5.models.hub import FILES
from jaxch5.models.registry import architectures
from jaxch5.models.spec import IMAGENET, HubWeights, ModelSpec, Normalization
from jaxch5.view import INTERPOLATIONS, WHOLE, View, view_of

Deviation = Annotated[float, Field(gt=0, allow_inf_nan=False)]
BESIDE = ("config.json", "preprocessor_config.json")
# Largest size of a description, in bytes. A description is about a page of text; a larger file is
# something else.
LONGEST_DESCRIPTION = 1_000_000
SET_OTHERS = "--model.mean and --model.std change them"
SETTINGS = "--model.mean and --model.std"
# Keys of timm's `config.json` that depend on the network, not on its pretraining.
OF_NETWORK = ("architecture", "num_classes", "label_names", "global_pool")
# Keys that say how a picture's values become the network's input.
OF_VALUES = ("mean", "std", "do_normalize", "do_rescale", "rescale_factor")


class Metadata(BaseModel):
    """Holds what a safetensors file may say about its weights; mean, std and classes are JSON."""

    mean: Json[tuple[FiniteFloat, FiniteFloat, FiniteFloat]] | None = None
    std: Json[tuple[Deviation, Deviation, Deviation]] | None = None
    classes: Json[tuple[str, ...]] | None = None
    crop_pct: PositiveShare | None = None
    interpolation: str | None = None
    licence: str | None = None
    size: str | None = None
    head: str | None = None


class Description(BaseModel):
    """Holds what a file beside the weights may say about them; colour values are from 0 to 1."""

    mean: tuple[Share, Share, Share] | None = None
    std: tuple[PositiveShare, PositiveShare, PositiveShare] | None = None
    label_names: tuple[str, ...] | None = None


class TimmDescription(Description):
    """Holds what only timm's `config.json` says; fields that begin with `test_` take precedence."""

    num_classes: NonNegativeInt | None = None
    input_size: tuple[int, int, int] | None = None
    test_input_size: tuple[int, int, int] | None = None
    crop_pct: PositiveShare | None = None
    test_crop_pct: PositiveShare | None = None
    crop_mode: str | None = None
    interpolation: str | None = None
    license: str | None = None
    global_pool: str | None = None


class Known(NamedTuple):
    """Holds what is known about weights.

    Attributes:
        normalization: Mean and standard deviation that the weights were trained with; the
            architecture's if those are not known.
        classes: Names of the head's classes; None if these are not known.
        source: Where the normalization is stated, for messages.
        view: View with which the weights were tested; `WHOLE` if it is not known.
        size: Size of the pictures on which the weights were tested; None if it is not known.
        licence: Licence of the weights; None if it is not known.
        head: Kind of head that is stated; "" if none is.
        remarks: Other facts about the weights that a message should state.
        outputs: Numbers of outputs that the head is said to have, each preceded by the place where
            the number is stated.
    """

    normalization: Normalization
    classes: tuple[str, ...] | None
    source: str
    view: View = WHOLE
    size: Size | None = None
    licence: str | None = None
    head: str = ""
    remarks: tuple[str, ...] = ()
    outputs: tuple[tuple[str, int], ...] = ()


def known_of(
    path: Path,
    metadata: Mapping[str, str],
    spec: ModelSpec,
    given: Normalization | None = None,
    beside: bool = True,
    one: bool = False,
    hub: HubWeights | None = None,
) -> Known:
    """Reads what a file of weights and the files beside it say about the weights.

    Args:
        path: The file of weights.
        metadata: The file's metadata, if it is a safetensors file.
        spec: The weights' architecture; descriptions of other architectures are ignored.
        given: Mean and standard deviation from the settings, which take precedence.
        beside: Whether files beside the file are read.
        one: Whether the file and its description come from the same repository or folder; a
            description of another architecture is then an error, rather than being ignored. It is
            also one beside a file with a name that is usual on the hub, if the other architecture
            is known here.
        hub: What the `ModelSpec` states about the weights, which is used unless there is timm's
            `config.json` beside the file. The licence and the size are used if that file states
            none.

    Raises:
        WeightsError: A file cannot be read, states something invalid, or contradicts another.
    """
    try:
        said = Metadata.model_validate(metadata)
    except ValidationError as error:
        first = error.errors()[0]
        raise WeightsError(f"{path}: {first['loc'][0]} in its metadata: {first['msg']}") from None
    found = {}
    if given is None and (own := _normalization(said, f"{path}: its metadata")):
        found["its metadata"] = own
    more = _view(vars(said)), size_of(hub.size if hub else said.size), said.licence, said.head or ""
    known = Known(spec.normalization, said.classes, "", *more)
    passed_over, by_timm = [], False
    for file in (path.parent / name for name in (BESIDE if beside else ())):
        values = _read(file)
        of = values.get("architecture")
        if isinstance(of, str) and (arch := of.partition(".")[0]) != spec.name:
            is_known = arch in architectures()
            if one or (is_known and path.name in FILES):
                way_out = f"arch {arch}" if is_known else f"weights {path} ignores this"
                raise WeightsError(
                    f"{file}: architecture = {of}, which is not {spec.name} (--model.{way_out})"
                )
            passed_over.append(f"{file.name} beside it describes {of} and is ignored")
            continue
        if given is not None:
            values = {key: value for key, value in values.items() if key not in OF_VALUES}
        description = _described(file, values)
        known = known._replace(classes=known.classes or description.label_names)
        if isinstance(description, TimmDescription):
            known, by_timm = _with_timms(known, file, description), True
            if description.global_pool == "avg" and "mean_pool" in spec.heads:
                known = known._replace(head="mean_pool")
        elif description.label_names:
            known = known._replace(
                outputs=((f"{file}: label_names", len(description.label_names)),)
            )
        if theirs := _normalization(description, str(file)):
            found[file.name] = theirs
    if hub and not by_timm:
        view = _view({"crop_pct": hub.crop, "interpolation": hub.interpolation})
        known = known._replace(view=view)
        found = {hub.repository: hub.normalization or spec.normalization}
    if hub:
        known = known._replace(licence=known.licence or hub.licence)
    known = known._replace(remarks=(*known.remarks, *passed_over))
    if given is not None:
        return known._replace(normalization=given, source=SETTINGS)
    if not found:
        whose = "ImageNet's" if spec.normalization == IMAGENET else f"those of {spec.name}"
        unsaid = "nothing says which values the weights were trained with"
        return known._replace(source=f"{whose}, since {unsaid}; {SET_OTHERS}")
    (source, normalization), *others = found.items()
    for name, other in others:
        if other != normalization:
            raise WeightsError(
                f"{path}: {source} and {name} contradict each other: mean {[*normalization.mean]} "
                f"and {[*other.mean]}, deviation {[*normalization.std]} and {[*other.std]}; "
                f"set the right ones with {SETTINGS}"
            )
    return known._replace(normalization=normalization, source=" and ".join(found))


def size_of(said: Any) -> Size | None:
    """Returns the size that weights state for the pictures they were tested on; None if it is none.

    Example:
        >>> size_of(224), size_of("[64, 96]"), size_of("large"), size_of(None)
        (224, (64, 96), None, None)
    """
    try:
        return parse_size(said)
    except ValueError:
        return None


def _with_timms(known: Known, file: Path, said: TimmDescription) -> Known:
    """Adds what timm's description of weights says to what is known about them."""
    size, filter = said.test_input_size or said.input_size, said.interpolation
    remarks = [*known.remarks]
    if filter and filter not in INTERPOLATIONS:
        remarks.append(f"their filter {filter} is not known here (--data.interpolation)")
        filter = None
    if said.crop_mode not in (None, "center"):
        remarks.append(f"tested with the crop mode {said.crop_mode} (--data.method)")
    outputs = [(f"{file}: num_classes", said.num_classes)] if said.num_classes is not None else []
    if said.label_names:
        outputs.append((f"{file}: label_names", len(said.label_names)))
    view = {"crop_pct": said.test_crop_pct or said.crop_pct, "interpolation": filter}
    return known._replace(
        view=view_of(view, known.view),
        size=size_of(size and size[1:]) or known.size,
        licence=known.licence or said.license,
        remarks=tuple(remarks),
        outputs=tuple(outputs),
    )


def _view(said: Mapping[str, Any]) -> View:
    known = said["interpolation"] in INTERPOLATIONS
    return view_of({**said, "interpolation": said["interpolation"] if known else None})


def _normalization(said: Metadata | Description, where: str) -> Normalization | None:
    if said.mean is None and said.std is None:
        return None
    if said.mean is None or said.std is None:
        lacks = "mean" if said.mean is None else "std"
        raise WeightsError(f"{where} lacks {lacks}; set both mean and std with {SETTINGS}")
    return Normalization(said.mean, said.std)


def _read(file: Path) -> dict[str, Any]:
    """Returns a description's known keys with their values; {} if there is no description."""
    try:
        if not file.is_file():
            return {}
        if file.stat().st_size > LONGEST_DESCRIPTION:
            raise ValueError("it is too long")
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(
            f"{file} is beside the weights, but cannot be read ({error}); move it away, and use "
            f"{SETTINGS} to state the mean and deviation that the weights were trained with"
        ) from None
    if not isinstance(values, dict):
        return {}
    # These are timm's keys, which older files have at the top level. The keys of transformers are
    # renamed below.
    within = values.get("pretrained_cfg")
    network = {key: values[key] for key in OF_NETWORK if key in values}
    values = values | (within if isinstance(within, dict) else {}) | network
    names = {"image_mean": "mean", "image_std": "std", "labels": "label_names"}
    known = {names.get(key, key): value for key, value in values.items()}
    if isinstance(labels := known.get("label_names"), dict):
        # timm's form if some outputs have no name; the classes are known only if all have one.
        order = [str(output) for output in range(len(labels))]
        named = labels.keys() == set(order)
        known["label_names"] = [labels[output] for output in order] if named else None
    fields = TimmDescription if isinstance(known.get("architecture"), str) else Description
    keys = ("architecture", *OF_VALUES, *fields.model_fields)
    return {key: known[key] for key in keys if key in known}


def _described(file: Path, values: dict[str, Any]) -> Description:
    kind = TimmDescription if isinstance(values.get("architecture"), str) else Description
    if values.get("do_normalize") is False:
        factor = values.get("rescale_factor") or 1 / 255
        as_usual = isinstance(factor, float) and math.isclose(factor, 1 / 255, rel_tol=1e-3)
        if values.get("do_rescale") is False or not as_usual:
            key = "do_rescale" if values.get("do_rescale") is False else "rescale_factor"
            raise WeightsError(
                f"{file}: do_normalize = false and {key} = {json.dumps(values[key])}, so the "
                f"network does not take values from 0 to 1; use {SETTINGS} to state the mean and "
                "deviation that make its values from these"
            )
        # The network takes values from 0 to 1 as they are, whatever mean and deviation are stated.
        values = values | {"mean": (0, 0, 0), "std": (1, 1, 1)}
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        colours = f"set it with {SETTINGS}, for values from 0 to 1"
        way_out = colours if name in ("mean", "std") else "correct it, or move the file away"
        raise WeightsError(f"{file}: {name} = {values[name]}: {first['msg']}; {way_out}") from None
