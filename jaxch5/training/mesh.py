"""Distributes training: decides which devices share a batch, and where arrays are stored.

Each device takes the same number of rows of every batch, and holds all weights. Steps are
computed where their state is stored; `placement_of` finds out from the state where that is, so
functions that run steps need no mesh. A mesh has two axes: the processes, and the devices of each
process. The optimizer's moments can be sharded among the devices of a process; the process as a
whole still has all of the moments, and can save them by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, Sharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int, PyTree

from jaxch5.batch import Batch, CachedBatch
from jaxch5.errors import ConfigError
from jaxch5.models.convolution import AXES
from jaxch5.util.text import counted

if TYPE_CHECKING:
    from jaxch5.data.block import Data
    from jaxch5.training.state import TrainState

PROCESSES, DEVICES = AXES
# Arrays with fewer values than this are not sharded: sharding costs a message between devices.
SHARED_FROM = 1024


def make_mesh(batch_size: int, devices: int = 0, resumed: bool = False) -> Mesh | None:
    """Returns the mesh of devices that share a batch; None if a single device takes all of it.

    Args:
        batch_size: Number of rows of a batch, on all devices together.
        devices: Number of devices to use in each process; 0 uses as many as every process has.
        resumed: Whether a run is resumed, so that the number of rows cannot be changed.

    Raises:
        ConfigError: A process has too few devices, or the rows cannot be shared equally.
    """
    by_process: dict[int, list[Any]] = {}
    for device in jax.devices():
        by_process.setdefault(device.process_index, []).append(device)
    present = min(map(len, by_process.values()))
    if devices > present:
        raise ConfigError(f"fit.devices = {devices}: the number available is {present}; 0 uses all")
    # Ordered by process, so that the rows of each process are adjacent.
    grid = np.array([by_process[process][: devices or present] for process in sorted(by_process)])
    if batch_size % grid.size:
        raise ConfigError(_not_equal(batch_size, len(grid), len(grid[0]), resumed))
    return Mesh(grid, (PROCESSES, DEVICES)) if grid.size > 1 else None


def _not_equal(batch_size: int, processes: int, devices: int, resumed: bool) -> str:
    count = processes * devices
    line = f"data.batch_size = {batch_size}: cannot be shared equally by {count} devices"
    # Rounded down, since there may be too few pictures for a larger batch.
    nearest = max(1, batch_size // count) * count
    fewer = [n for n in range(1, devices) if batch_size % (processes * n) == 0]
    ways = [f"--fit.devices {fewer[-1]}"] if fewer else []
    if not resumed:
        ways.insert(0, f"--data.batch-size {nearest}")
    if not ways:
        few = max(n for n in range(1, processes) if batch_size % n == 0)
        ways = [f"--fit.devices 1 and {counted(few, 'process', 'processes')}"]
    return f"{line}; choose {', or '.join(ways)}"


class Placement(NamedTuple):
    """Holds where a step's arrays are stored: those replicated, and those split by rows.

    `everywhere` and `rows` are None if only one device is used, which is the default device.
    """

    everywhere: Sharding | None
    rows: Sharding | None

    def put(self, tree: PyTree) -> PyTree:
        """Puts arrays on every device; they have to be the same in every process."""
        return jax.tree.map(lambda leaf: _put(leaf, self.everywhere), tree)

    def put_batch(self, batch: Batch | CachedBatch) -> Batch | CachedBatch:
        """Puts a batch on the devices; each device gets some of the rows of its process."""
        return jax.tree.map(_put, batch, self._of(batch)) if self.rows else jax.device_put(batch)

    def shapes(self, batch: Batch | CachedBatch) -> Batch | CachedBatch:
        """Returns the shapes of a batch's arrays and, on several devices, their shardings."""
        if not self.rows:
            return batch
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            batch,
            self._of(batch),
        )

    def _of(self, batch: Batch | CachedBatch) -> Any:
        rows = self.rows
        if isinstance(rows, NamedSharding) and batch.label.ndim == 2:
            # This is a stack of batches for many steps; its first axis is the step.
            rows = NamedSharding(rows.mesh, P(None, *rows.spec))
        return by_rows(batch, rows, self.everywhere)


def placement_of(state: TrainState) -> Placement:
    """Returns where the arrays of a step are stored, according to its state."""
    sharding = state.step.sharding
    if not isinstance(sharding, NamedSharding):
        return Placement(None, None)
    return Placement(sharding, NamedSharding(sharding.mesh, P(sharding.mesh.axis_names)))


def by_rows(batch: Batch | CachedBatch, rows: Any, everywhere: Any) -> Any:
    """Returns a tree like a batch, with `rows` for arrays with a row per item, else `everywhere`.

    Example:
        >>> by_rows(Batch(*5 * [0]), "rows", "everywhere").label
        'rows'
    """
    # Made from the batch, since a tree of another framing would not match it.
    tree = jax.tree.map(lambda _: rows, batch)
    if isinstance(batch, CachedBatch):
        return replace(tree, images=everywhere, frames=everywhere)
    return tree


def place(state: TrainState, mesh: Mesh | None, shard_optimizer: bool = False) -> TrainState:
    """Puts a state on every device of a mesh; without a mesh it stays where it is.

    Args:
        state: Weights, statistics and optimizer.
        mesh: Result of `make_mesh`.
        shard_optimizer: Whether the optimizer's moments are sharded among the devices of a process,
            each of which updates a part of the weights (Rajbhandari et al., 1910.02054, stage 1).
    """
    if mesh is None:
        return state
    everywhere = NamedSharding(mesh, P())
    shardings = jax.tree.map(lambda _: everywhere, state)
    if shard_optimizer:
        of_moments = jax.tree.map(lambda leaf: _shared_out(leaf, mesh), state.opt_state)
        shardings = shardings.replace(opt_state=of_moments)
    return jax.tree.map(_put, state, shardings)


def _shared_out(leaf: Any, mesh: Mesh) -> NamedSharding:
    devices = mesh.shape[DEVICES]
    for axis, length in enumerate(leaf.shape):
        if leaf.size >= SHARED_FROM and length % devices == 0:
            return NamedSharding(mesh, P(*[None] * axis, DEVICES))
    return NamedSharding(mesh, P())


def share(data: Data, mesh: Mesh | None) -> Data:
    """Returns data from which this process reads only its rows; a cache is put on every device."""
    if mesh is None:
        return data
    everywhere = NamedSharding(mesh, P())
    part = jax.process_index(), jax.process_count()
    return data.shared(lambda array: _put(array, everywhere), part, mesh.size)


def _put(leaf: Any, sharding: Sharding | None) -> jax.Array:
    global_already = isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
    if sharding is None or sharding.is_fully_addressable or global_already:
        return jax.device_put(leaf, sharding)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = _put(np.asarray(jax.random.key_data(leaf)), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    return jax.make_array_from_process_local_data(sharding, np.asarray(leaf))


def to_host(tree: PyTree) -> PyTree:
    """Returns arrays, which may be sharded among the devices of this process, as NumPy arrays."""

    def whole(leaf: Any) -> np.ndarray:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
            return np.asarray(jax.device_get(leaf))
        array = np.empty(leaf.shape, leaf.dtype)
        for shard in leaf.addressable_shards:
            array[shard.index] = shard.data
        return array

    return jax.tree.map(whole, tree)


def on_one_device(tree: PyTree, copies: bool = False) -> PyTree:
    """Returns replicated arrays as arrays on one device, copied if `copies` is True."""
    take = jnp.copy if copies else jnp.asarray
    return jax.tree.map(lambda leaf: take(leaf.addressable_data(0)), tree)


def over_rows(
    function: Callable[..., PyTree], mesh: Mesh | None, mean: bool = False
) -> Callable[..., PyTree]:
    """Returns `function`, changed so that each device computes it for its own rows of a batch.

    Results for single rows are the same on any number of devices. For most functions, XLA's
    partitioner infers by itself that rows are independent; it does not for functions that gather a
    batch's pixels, so these need `over_rows`.

    Args:
        function: Function that takes a batch and any number of replicated values, and returns
            results with one row for each row of the batch.
        mesh: Result of `make_mesh`; None returns `function` itself.
        mean: Whether `function` returns float32 means over its rows instead; the means of all
            devices are then averaged as one vector, in one message.
    """
    if mesh is None:
        return function
    axes = mesh.axis_names

    def of_rows(batch: Batch | CachedBatch, *others: Any) -> PyTree:
        result = function(batch, *others)
        return _mean_as_vector(result, axes) if mean else result

    def mapped(batch: Batch | CachedBatch, *others: Any) -> PyTree:
        specs = by_rows(batch, P(axes), P()), *(P() for _ in others)
        # `check_vma=True` would sum the gradient of each parameter over the devices in a message of
        # its own.
        return jax.shard_map(
            of_rows,
            mesh=mesh,
            in_specs=specs,
            out_specs=P() if mean else P(axes),
            check_vma=False,
        )(batch, *others)

    return mapped


def _mean_as_vector(tree: PyTree, axes: tuple[str, ...]) -> PyTree:
    flat, unravel = ravel_pytree(tree)
    return unravel(jax.lax.pmean(flat, axes))


def mean_of_all(function: Callable[..., PyTree], mesh: Mesh | None) -> Callable[..., PyTree]:
    """Returns `function` with its float32 gradients averaged over the devices, in one message.

    Args:
        function: Function that returns `((value, others), gradients)`, and whose layers do not sum
            the gradients of kernels over devices: see `by_rows` in `jaxch5.models.convolution`.
        mesh: Result of `make_mesh`; None returns `function` itself.
    """
    if mesh is None:
        return function
    mean = jax.shard_map(
        partial(_mean_as_vector, axes=mesh.axis_names),
        mesh=mesh,
        in_specs=P(),
        out_specs=P(),
        check_vma=False,
    )

    def averaged(*arguments: Any) -> PyTree:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            (value, others), grads = function(*arguments)
        return (value, others), mean(grads)

    return averaged


def mean_over_devices(mesh: Mesh | None) -> Callable[[Array], Array]:
    """Returns a function that averages over devices and stops gradients, for use in `over_rows`.

    Args:
        mesh: Mesh that was passed to `over_rows`; with None, the function leaves values unchanged.
    """
    if mesh is None:
        return lambda x: x
    return lambda x: jax.lax.pmean(jax.lax.stop_gradient(x), mesh.axis_names)


def number_of_device(mesh: Mesh) -> Int[Array, ""]:
    """Returns the index of the device that runs this function, for use within `over_rows`."""
    return jax.lax.axis_index(mesh.axis_names)
