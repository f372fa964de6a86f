"""Runs one-time functions such as initializations without compiling a program for each shape.

XLA compiles random number generation again for each shape of a network's parameters, which takes
many times as long as the draws themselves. In this module, one small program makes all draws of a
kind, piece by piece, and NumPy computes the few steps around them. The values are those that
`jax.jit` computes, except for the rounding of the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal
from jax.extend.random import define_prng_impl, threefry_2x32
from jaxtyping import Array, Float, PyTree, UInt32

# Number of values that one call of a program draws: enough to make the cost of calls negligible.
PIECE = 2**18
# Functions that compute a piece of a draw from its key and any other operands, keyed by the name
# that the draw has in a jaxpr. If a release of jax uses other names, `run_once` is slower, but its
# results are still right.
DRAWS: dict[str, Callable[..., Array]] = {
    "_normal": lambda key: jax.random.normal(key, (PIECE,)),
    "_uniform": lambda key, low, high: jax.random.uniform(key, (PIECE,), minval=low, maxval=high),
    "_truncated_normal": lambda key, low, high: jax.random.truncated_normal(
        key, low, high, (PIECE,)
    ),
}
# Functions with which NumPy computes the same results as primitives of JAX, but without a compiled
# program, keyed by the names of the primitives.
BY_NUMPY: dict[str, Callable[..., Any]] = {
    "mul": lambda x, y, **_: np.multiply(x, y),
    "sqrt": lambda x, **_: np.sqrt(x),
    "copy": lambda x: x,
    "reshape": lambda x, new_sizes, **_: np.reshape(x, new_sizes),
    "broadcast_in_dim": lambda x, shape, broadcast_dimensions, **_: (
        np.broadcast_to(x, shape) if not broadcast_dimensions else None
    ),
}


def run_once(function: Callable[..., PyTree], *args: Any) -> PyTree:
    """Computes `function(*args)` for a function of arrays that runs only once.

    Computations that the outputs do not need are skipped, such as the forward pass in
    `module.init`.

    Args:
        function: Function that `jax.jit` could compile.
        args: Arguments of the function: trees of arrays.

    Example:
        >>> key = jax.random.key(0)
        >>> bool(run_once(jax.random.uniform, key) == jax.random.uniform(key))
        True
    """
    traced = jax.jit(function).trace(*args)
    jaxpr, consts = traced.jaxpr.jaxpr, traced.jaxpr.consts
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    values |= zip(jaxpr.invars, jax.tree.leaves(args), strict=True)

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in _needed(jaxpr):
        operands = [read(atom) for atom in equation.invars]
        found = _by_numpy(equation, operands)
        if found is None:
            inputs = [atom for atom in equation.invars if not isinstance(atom, Literal)]
            outputs, alone = equation.outvars, [equation]
            alone = jaxpr.replace(constvars=[], invars=inputs, outvars=outputs, eqns=alone)
            found = jax.core.eval_jaxpr(alone, (), *map(read, inputs))
        values |= zip(equation.outvars, found, strict=True)
    leaves = [jax.device_put(read(atom), may_alias=False) for atom in jaxpr.outvars]
    return jax.tree.unflatten(jax.tree.structure(traced.out_info), leaves)


def _needed(jaxpr: Any) -> list[Any]:
    needed, equations = {atom for atom in jaxpr.outvars if not isinstance(atom, Literal)}, []
    for equation in reversed(jaxpr.eqns):
        if not needed.isdisjoint(equation.outvars):
            equations.append(equation)
            needed.update(atom for atom in equation.invars if not isinstance(atom, Literal))
    return equations[::-1]


def _by_numpy(equation: Any, operands: Sequence[Any]) -> list[Any] | None:
    """Returns the results of a jaxpr's equation if it needs no program of its own, else None."""
    name, params = equation.primitive.name, equation.params
    made = equation.outvars[0].aval
    if made.dtype not in (np.float32, np.int32):
        return None
    if name in BY_NUMPY:
        found = BY_NUMPY[name](*map(np.asarray, operands), **params)
        return None if found is None else [found]
    name = params.get("name", "")
    if name in DRAWS and made.dtype == np.float32 and _is_default(operands[0]):
        return [_drawn(name, made.shape, *operands)]
    return None


def _is_default(key: Any) -> bool:
    return jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key) and (
        str(jax.random.key_impl(key)) == "threefry2x32"
        and jax.config.values["jax_threefry_partitionable"]
    )


def _drawn(name: str, shape: tuple[int, ...], key: Any, *operands: Any) -> Float[np.ndarray, "..."]:
    words = np.asarray(jax.random.key_data(key))
    count = prod(shape)
    program = _program(name)
    pieces = [
        program(np.append(words, np.uint32(start)), *(np.float32(value) for value in operands))
        for start in range(0, count, PIECE)
    ]
    return np.concatenate(jax.device_get(pieces))[:count].reshape(shape)


@lru_cache
def _program(name: str) -> Callable[..., Float[Array, "piece"]]:
    # Optimization pays off over millions of draws, even if flags disable it for other programs.
    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 3})
    def draw(words: UInt32[Array, "3"], *operands: Any) -> Float[Array, "piece"]:
        return DRAWS[name](jax.random.wrap_key_data(words, impl=PIECES), *operands)

    return draw


def _bits(words: UInt32[Array, "3"], width: int, shape: tuple[int, ...]) -> UInt32[Array, "piece"]:
    # The bits of the n-th value of a draw depend only on the draw's key and on n.
    low = words[2] + jnp.arange(PIECE, dtype=jnp.uint32)
    bits = threefry_2x32((words[0], words[1]), jnp.concatenate([jnp.zeros_like(low), low]))
    return bits[:PIECE] ^ bits[PIECE:]


def _none(*_: Any) -> Any:
    raise NotImplementedError


# jax's generator, but with draws that begin at the n-th value: a key consists of two words and n.
PIECES = define_prng_impl(
    key_shape=(3,),
    seed=_none,
    split=_none,
    random_bits=_bits,
    fold_in=_none,
    name="pieces_of_threefry2x32",
    tag="pieces",
)
