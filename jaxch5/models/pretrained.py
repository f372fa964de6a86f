"""Weights that were trained before: ImageNet's from the Hugging Face hub, and files of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from jaxtyping import PyTree

from jaxch5.errors import WeightsError
from jaxch5.libraries import empty_is_unset
from jaxch5.models.convert import architecture_of, find_network
from jaxch5.models.normalization import IMAGENET, Normalization
from jaxch5.models.provenance import known_of
from jaxch5.models.reader import read_weights, reason_of
from jaxch5.models.weights import import_network, refuse_damaged

FILE = "model.safetensors"
# For each of the hub's few network addresses to say what it has; the file may take its time.
ANSWER_SECONDS = 3.0


class Source(NamedTuple):
    """Where ImageNet weights lie, and what is known of them.

    Attributes:
        repository: on the hub; timm's copies of torchvision's weights.
        accuracy: top-1 on ImageNet's validation pictures, percent, as torchvision states it.
        licence: of the weights.
        normalization: that they were trained with.
    """

    repository: str
    accuracy: float
    licence: str = "bsd-3-clause"
    normalization: Normalization = IMAGENET


IMAGENET_WEIGHTS = {
    "resnet18": Source("timm/resnet18.tv_in1k", 69.758),
    "resnet34": Source("timm/resnet34.tv_in1k", 73.314),
    "resnet50": Source("timm/resnet50.tv2_in1k", 80.858),
    "resnet101": Source("timm/resnet101.tv2_in1k", 81.886),
    "resnet152": Source("timm/resnet152.tv2_in1k", 82.284),
}


class Pretrained(NamedTuple):
    """Weights with what travels with them.

    Attributes:
        variables: `{"params": ..., "batch_stats": ...}` of a network, or of its body alone.
        normalization: that they were trained with.
        classes: names of their head's classes; None where they are not known.
        origin: where they come from, for people.
        normalized_by: who says what the normalization is, for people.
        left_out: entries of the file that are neither of the body nor of a head known here.
        others: other parts of the file that hold a network.
    """

    variables: dict[str, PyTree]
    normalization: Normalization
    classes: tuple[str, ...] | None
    origin: str
    normalized_by: str = ""
    left_out: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


@empty_is_unset()
def from_hub(arch: str, cache: Path | None = None, endpoint: str | None = None) -> Pretrained:
    """ImageNet's weights of an architecture; once fetched, they are read from the hub's cache.

    Args:
        arch: a key of `IMAGENET_WEIGHTS`.
        cache: folder of fetched files; None is huggingface-hub's own (`HF_HOME`).
        endpoint: address of the hub; None is huggingface-hub's own (`HF_ENDPOINT`).

    Raises:
        WeightsError: they are not in the cache and the hub does not give them.
    """
    import huggingface_hub as hub
    from huggingface_hub.errors import HTTPError

    source = IMAGENET_WEIGHTS[arch]
    origin = f"ImageNet ({source.repository})"
    file = hub.try_to_load_from_cache(source.repository, FILE, cache_dir=cache)
    if not isinstance(file, str):
        url = hub.hf_hub_url(source.repository, FILE, endpoint=endpoint)
        try:
            # Asked once first: a download goes on asking a hub in trouble for most of a minute.
            said = hub.get_hf_file_metadata(url, timeout=ANSWER_SECONDS)
            # huggingface-hub makes paths of these, and follows them wherever they lead.
            for name in (said.etag, said.commit_hash):
                if name is not None and not re.fullmatch(r"[A-Za-z0-9_-]+", name):
                    raise OSError(f"it names a file {name!r}")
            file = hub.hf_hub_download(
                source.repository,
                FILE,
                cache_dir=cache,
                endpoint=endpoint,
                etag_timeout=ANSWER_SECONDS,
            )
        except (HTTPError, OSError) as error:
            raise WeightsError(
                f"{source.repository}: the hub does not give it ({reason_of(error)}); "
                f"fetch {url} elsewhere and name the file with --model.weights PATH"
            ) from None
    weights = from_file(Path(file), arch, source.normalization)
    return weights._replace(origin=origin, normalized_by=source.repository)


def from_file(
    path: Path, arch: str, normalization: Normalization | None = None, beside: bool = True
) -> Pretrained:
    """Reads weights: `.safetensors`, or PyTorch's (`.pth`, `.pt`) with the extra `torch`.

    A safetensors file may say in its metadata, as JSON, its `mean`, `std` and `classes`; those that
    `export` writes do. timm's `config.json` is read where it is beside a file.

    Args:
        path: the file, with torchvision's, timm's or fastai's names; `FILE#PART` names one of
            several state dicts that it holds.
        arch: the architecture that they should be of.
        normalization: mean and deviation of their training; None takes what the file says.
        beside: whether what is beside the file is heard; a learner's file says all itself.

    Raises:
        WeightsError: the file cannot be read, or does not fit.
    """
    path, part = _part(path)
    tensors, metadata = read_weights(path)
    known = known_of(path, metadata, arch, normalization, beside)
    try:
        found = find_network(tensors, arch, part)
        if (holds := architecture_of(found.entries)) not in (arch, None):
            raise WeightsError(f"holds weights of {holds}, not of {arch} (--model.arch {holds})")
        variables, left_out = import_network(found, arch)
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


def _part(path: Path) -> tuple[Path, str]:
    """Returns a file, and the part of it that is named after `#`, where no file is named so."""
    name, sign, part = path.name.rpartition("#")
    return (path, "") if path.exists() or not sign else (path.with_name(name), part)
