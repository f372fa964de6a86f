"""Stores arrays of a checkpoint in a folder: a safetensors file, and a file with its checksum."""

from __future__ import annotations

import hashlib
from pathlib import Path

import jax
import numpy as np
from jaxtyping import PyTree
from safetensors.numpy import load
from safetensors.numpy import save as dump

from jaxch5.training.mesh import to_host
from jaxch5.util.memory import free_memory

FILE, CHECKSUM = "arrays.safetensors", "arrays.sha256"
# A larger file is read only if there is clearly room for it, since other people's weights are read
# into memory before it is known whether they fit the network. The weights of a ResNet-152 take 0.24
# GB.
MOST_BYTES = 2**32

Arrays = dict[str, np.ndarray]


def to_arrays(tree: PyTree) -> Arrays:
    """Returns copies of a tree's leaves on the host, keyed by their paths in the tree.

    >>> to_arrays({"conv": {"kernel": np.zeros(2)}})
    {'conv/kernel': array([0., 0.])}
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(to_host(tree))
    return {_name(path): np.array(leaf, order="C") for path, leaf in leaves}


def from_arrays(arrays: Arrays, like: PyTree) -> PyTree:
    """Returns a tree with the structure of `like` and the arrays as its leaves.

    Raises:
        ValueError: An array is missing or superfluous, or its shape or type does not match.

    >>> from_arrays({"bias": np.zeros(2)}, {"bias": jax.ShapeDtypeStruct((2,), np.float64)})
    {'bias': array([0., 0.])}
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    expected = {_name(path): leaf for path, leaf in leaves}
    for name in expected.keys() ^ arrays.keys():
        raise ValueError(f"{name} is {'missing' if name in expected else 'not part of this model'}")
    for name, leaf in expected.items():
        found = arrays[name]
        if (found.shape, found.dtype) != (leaf.shape, leaf.dtype):
            raise ValueError(
                f"{name} is {found.dtype}{list(found.shape)}, not {leaf.dtype}{list(leaf.shape)}"
            )
    return jax.tree.unflatten(structure, [arrays[name] for name in expected])


def _name(path: tuple[jax.tree_util.KeyEntry, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def write_arrays(directory: Path, arrays: Arrays) -> None:
    """Writes arrays into an existing folder."""
    content = dump(arrays)
    (directory / FILE).write_bytes(content)
    (directory / CHECKSUM).write_text(_checksum(content))


def read_arrays(directory: Path, like: PyTree = ()) -> Arrays:
    """Reads the arrays of a folder.

    Args:
        directory: Folder that `write_arrays` has written to.
        like: Tree of arrays or shapes that the folder should hold, if this is known.

    Raises:
        ValueError: The arrays are not those that were written, or need too much memory.
        OSError: A file cannot be read.
    """
    size = (directory / FILE).stat().st_size
    expected = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(like))
    # The file's content and the arrays are in memory at the same time.
    if size > max(MOST_BYTES + expected, free_memory() // 2):
        raise ValueError(f"its arrays would take {size / 1e9:.0f} GB")
    content = (directory / FILE).read_bytes()
    if _checksum(content) != (directory / CHECKSUM).read_text():
        raise ValueError("its arrays are not those that were saved")
    return load(content)


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
