"""Weights that were trained before: ImageNet's from the Hugging Face hub, and files of them."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from jaxtyping import PyTree
from pydantic import BaseModel, Field, FiniteFloat, Json, ValidationError

from jaxch5.errors import WeightsError
from jaxch5.libraries import empty_is_unset
from jaxch5.models.normalization import IMAGENET, Normalization
from jaxch5.models.weights import architecture_of, import_state_dict

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


Deviation = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Metadata(BaseModel):
    """What a safetensors file may say of its weights, each as JSON."""

    mean: Json[tuple[FiniteFloat, FiniteFloat, FiniteFloat]] = IMAGENET.mean
    std: Json[tuple[Deviation, Deviation, Deviation]] = IMAGENET.std
    classes: Json[tuple[str, ...]] | None = None


class Pretrained(NamedTuple):
    """Weights with what travels with them.

    Attributes:
        variables: `{"params": ..., "batch_stats": ...}` of a whole network.
        normalization: that they were trained with.
        classes: names of their head's classes; None where they are not known.
        origin: where they come from, for people.
    """

    variables: dict[str, PyTree]
    normalization: Normalization
    classes: tuple[str, ...] | None
    origin: str


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
                f"{source.repository}: the hub does not give it ({_reason(error)}); "
                f"fetch {url} elsewhere and name the file with --model.weights PATH"
            ) from None
    weights = from_file(Path(file), arch)
    return weights._replace(normalization=source.normalization, origin=origin)


def from_file(path: Path, arch: str) -> Pretrained:
    """Weights from a file: `.safetensors`, or PyTorch's `.pth` or `.pt` with the extra `torch`.

    A safetensors file may say in its metadata, as JSON, its `mean`, `std` and `classes`; those that
    `export` writes do.

    Args:
        path: the file, with torchvision's, timm's or fastai's names.
        arch: the architecture that they should be of.

    Raises:
        WeightsError: the file cannot be read, or does not fit.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file of weights (--model.weights)")
    metadata: Mapping[str, str] = {}
    if path.suffix == ".safetensors":
        state_dict, metadata = _read_safetensors(path)
    elif path.suffix in (".pth", ".pt"):
        state_dict = _read_pickle(path)
    else:
        raise WeightsError(f"{path}: should end in .safetensors, .pth or .pt")
    found = architecture_of(state_dict)
    if found not in (arch, None):
        raise WeightsError(
            f"{path}: holds weights of {found}, not of {arch} (--model.arch {found})"
        )
    try:
        variables = import_state_dict(state_dict, arch)
        said = Metadata.model_validate(metadata)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise WeightsError(f"{path}: its metadata, {first['loc'][0]}: {first['msg']}") from None
    return Pretrained(variables, Normalization(said.mean, said.std), said.classes, str(path))


def _read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        # Of the frameworks, this is the one that knows bfloat16.
        with safe_open(path, framework="flax") as file:
            tensors = {name: np.asarray(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: is cut short or no safetensors file: {_reason(error)}"
        ) from None


def _read_pickle(path: Path) -> dict[str, Any]:
    try:
        import torch
    except ImportError:
        raise WeightsError(
            f"{path}: reading it needs PyTorch (python -m pip install -e '.[torch]' in jaxch5's "
            "folder), or take .safetensors"
        ) from None
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise WeightsError(
            f"{path}: is refused: it is damaged, or holds more than tensors, which could run "
            "anything on loading"
        ) from None
    except Exception as error:  # Damaged bytes are taken for instructions, and anything happens.
        reason = _reason(error)
        raise WeightsError(f"{path}: is cut short or no file of PyTorch's: {reason}") from None
    for wrapper in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in loaded.items()
    ):
        raise WeightsError(f"{path}: holds no state dict")
    return {name: value.detach().float().numpy() for name, value in loaded.items()}


def _reason(error: Exception) -> str:
    """An error's kind, which may be all that it says, and the first line of the rest."""
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
