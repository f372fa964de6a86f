"""Reading files of weights as arrays by name, whichever library wrote them; nothing is executed."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxch5.errors import WeightsError
from jaxch5.models.convert import flatten

# Of PyTorch's files; `.bin` is the hub's, `.ckpt` Lightning's, and `.tar` that of `model.pth.tar`.
PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".tar")
SAFETENSORS = ".safetensors"
# What timm, fastai, Lightning and scripts keep beside the weights: options, scores and paths. They
# are read as nothing, so that what is written there is not made.
IGNORED = (
    "argparse.Namespace",
    "fastcore.foundation.L",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib._local.PosixPath",
)


# Dictionaries are read as such: a pickle goes on to fill them.
DICTIONARIES = (
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)


class Ignored:
    """Stands for an object that is no weight, and takes what it is given without a look at it."""

    def __init__(self, *values: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read_weights(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns what a file of weights holds, and what it says of itself.

    Returns:
        Arrays in PyTorch's layouts by dotted names, those of nested dictionaries among them, and
        the metadata of a safetensors file.

    Raises:
        WeightsError: there is no such file, or it cannot be read.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file of weights (--model.weights)")
    if path.suffix == SAFETENSORS:
        return _read_safetensors(path)
    if path.suffix in PICKLES:
        return _read_pickle(path), {}
    more = ", ".join(PICKLES[2:])
    raise WeightsError(f"{path}: should end in .safetensors, .pth or .pt ({more} are read too)")


def _read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        # Of the frameworks, this is the one that knows bfloat16.
        with safe_open(path, framework="flax") as file:
            tensors = {name: np.asarray(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: is cut short or no safetensors file: {reason_of(error)}"
        ) from None


def _read_pickle(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError:
        raise WeightsError(
            f"{path}: reading it needs PyTorch (pip install -e '.[torch]' in jaxch5's folder, or "
            "pip install torch), or take .safetensors"
        ) from None
    if _is_torchscript(path):
        raise WeightsError(
            f"{path}: is a program of TorchScript's; save its weights alone, in Python: "
            "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')"
        )
    try:
        known: list[Any] = [(Ignored, name) for name in IGNORED]
        known += [(dict, name) for name in DICTIONARIES]
        with torch.serialization.safe_globals(known):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise WeightsError(
            f"{path}: is refused: it is damaged, or holds more than tensors, which could run "
            "anything on loading; whoever trusts it can save its weights alone, in Python: "
            "torch.save(model.state_dict(), 'weights.pth')"
        ) from None
    except Exception as error:  # Damaged bytes are taken for instructions, and anything happens.
        reason = reason_of(error)
        raise WeightsError(f"{path}: is cut short or no file of PyTorch's: {reason}") from None
    tensors = flatten(loaded) if isinstance(loaded, Mapping) else {}
    if not tensors:
        raise WeightsError(f"{path}: holds no state dict")
    return {name: _as_array(value, f"{path}: {name}") for name, value in tensors.items()}


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def _as_array(tensor: Any, name: str) -> np.ndarray:
    try:
        tensor = tensor.detach()
        # NumPy has no bfloat16.
        return np.asarray(tensor.float() if tensor.is_floating_point() else tensor)
    except Exception as error:
        reason = reason_of(error)
        raise WeightsError(f"{name}: is no tensor of plain numbers ({reason})") from None


def reason_of(error: Exception) -> str:
    """Returns an error's kind, which may be all that it says, and the first line of the rest."""
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
