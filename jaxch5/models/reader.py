"""Reads named arrays from safetensors and PyTorch files, without executing anything in them."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import PyTree

from jaxch5.errors import WeightsError
from jaxch5.util.address import PICKLES as PICKLES
from jaxch5.util.address import SAFETENSORS as SAFETENSORS

NEEDS_TORCH = (
    "reading it needs PyTorch (pip install -e '.[torch]' in jaxch5's folder, or pip install "
    "torch); or use a .safetensors file"
)
# Types that timm, fastai, Lightning and scripts store with the weights: options, scores and paths.
# When a file is read, placeholders replace them, so that no object of these types is created.
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


# Greatest depth to which nested dictionaries are entered.
DEEPEST = 10
# Types that are read as dictionaries, because a pickle creates such an object first, and fills it
# afterwards.
DICTIONARIES = (
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)


class Ignored:
    """Stands for an object that is not a weight, and ignores its arguments and its state."""

    def __init__(self, *values: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read_weights(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns the arrays in a file of weights, and the file's metadata.

    Returns:
        Arrays, keyed by dotted names, including those in nested dictionaries, and the metadata of a
        safetensors file ({} if there is none).

    Raises:
        WeightsError: There is no such file, or it cannot be read.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file of weights (--model.weights)")
    if path.suffix == SAFETENSORS:
        return _read_safetensors(path)
    if path.suffix in PICKLES:
        return _read_pickle(path), {}
    more = ", ".join(PICKLES[2:])
    raise WeightsError(f"{path}: should end in .safetensors, .pth or .pt ({more} are read too)")


def read_metadata(path: Path) -> dict[str, str]:
    """Returns the metadata of a file of weights, {} if it has none, without reading its arrays.

    Raises:
        WeightsError: There is no such file, or it cannot be read.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file of weights (--model.weights)")
    return _read_safetensors(path, arrays=False)[1] if path.suffix == SAFETENSORS else {}


def _read_safetensors(
    path: Path, arrays: bool = True
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        # The other framework that is always installed, NumPy, has no bfloat16.
        with safe_open(path, framework="flax" if arrays else "numpy") as file:
            names = file.keys() if arrays else ()
            tensors = {name: np.asarray(file.get_tensor(name)) for name in names}
            return tensors, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: is cut short or not a safetensors file: {reason_of(error)}"
        ) from None


def _read_pickle(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError:
        raise WeightsError(f"{path}: {NEEDS_TORCH}") from None
    if _is_torchscript(path):
        raise WeightsError(
            f"{path}: is a TorchScript program; save only its weights, in Python: "
            "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')"
        )
    try:
        known: list[Any] = [(Ignored, name) for name in IGNORED]
        known += [(dict, name) for name in DICTIONARIES]
        with torch.serialization.safe_globals(known):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise WeightsError(
            f"{path}: is refused, because it is damaged, or because it holds more than tensors and "
            "could run any code when it is loaded; if you trust it, save only its weights, in "
            "Python: torch.save(model.state_dict(), 'weights.pth')"
        ) from None
    except Exception as error:  # Damaged bytes are read as instructions, so any error may follow.
        reason = reason_of(error)
        raise WeightsError(f"{path}: is cut short or not a PyTorch file: {reason}") from None
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
        raise WeightsError(f"{name}: is not a tensor of plain numbers ({reason})") from None


def reason_of(error: Exception) -> str:
    """Returns the name of an error's type, and the first line of its message if it has one."""
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])


def flatten(tree: Mapping[Any, Any]) -> dict[str, Any]:
    """Returns the arrays in nested dictionaries, keyed by dotted names.

    A dictionary that occurs several times is entered only once.

    Example:
        >>> import numpy as np
        >>> list(flatten({"model": {"fc.bias": np.zeros(2)}, "epoch": 3}))
        ['model.fc.bias']
    """
    found: dict[str, Any] = {}
    seen: set[int] = set()

    def enter(tree: Mapping[Any, Any], prefix: str, depth: int) -> None:
        # A file can be nested to any depth, and its dictionaries can contain themselves.
        if id(tree) in seen or depth > DEEPEST:
            return
        seen.add(id(tree))
        for name, value in tree.items():
            if not isinstance(name, str):
                continue
            if isinstance(value, Mapping):
                enter(value, f"{prefix}{name}.", depth + 1)
            elif hasattr(value, "shape") and hasattr(value, "dtype"):
                found[prefix + name] = value

    enter(tree, "", 0)
    return found


def refuse_damaged(variables: Mapping[str, PyTree]) -> None:
    """Refuses damaged weights, with which training would fail as if the rate were too high.

    Args:
        variables: `{"params": ..., "batch_stats": ...}`.

    Raises:
        WeightsError: An array holds a NaN, an infinite number, or a variance below zero.

    Example:
        >>> refuse_damaged({"params": {"head": {"bias": np.array([1.0, np.inf])}}})
        Traceback (most recent call last):
        jaxch5.errors.WeightsError: params.head.bias holds NaN or infinite numbers (1 of 2): ...
    """
    named = {".".join(path): np.asarray(leaf) for path, leaf in flatten_dict(variables).items()}
    refuse_not_finite(named)
    for name, value in named.items():
        if name.endswith(".var") and (value < 0).any():
            raise WeightsError(f"{name} holds variances below zero: these weights are damaged")


def refuse_not_finite(tensors: Mapping[str, np.ndarray]) -> None:
    """Refuses tensors that hold NaN or infinite numbers; the message names the first one.

    Raises:
        WeightsError: A tensor has such numbers.
    """
    for name, value in tensors.items():
        finite = np.isfinite(value)
        if not finite.all():
            raise WeightsError(
                f"{name} holds NaN or infinite numbers ({finite.size - finite.sum():,} of "
                f"{finite.size:,}): the training of these weights failed; use earlier weights"
            )


def as_floats(value: Any, name: str) -> np.ndarray:
    """Returns a tensor as float32.

    Raises:
        WeightsError: The tensor's numbers are not floats.
    """
    array = np.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise WeightsError(
            f"{name} holds {array.dtype}, not floats; use the weights from before quantization"
        )
    # Numbers beyond float32's range become infinite, which `refuse_not_finite` refuses later.
    with np.errstate(over="ignore"):
        return array.astype(np.float32)
