"""Writes a pure function of an array as an ONNX program, for runtimes without jax or PyTorch.

The function is traced for any number of rows, and each of its operations is written as one or
more ONNX operators. A value that does not depend on the input is computed while the program is
written, and becomes a constant. If code branches on the platform, its default branch is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from string import ascii_letters
from typing import Any

import jax
import numpy as np
import onnx
from jax import export
from jax.extend.core import ClosedJaxpr, Literal
from jaxtyping import Array
from onnx import helper, numpy_helper

# The oldest operator set that accepts all arguments given here, and the format version for it.
OPSET, IR_VERSION = 18, 8
# A constant, or else the name of the program's input or of a node's result.
Value = Any
# Stands for a branch index that depends on the platform; the last branch is the default one.
OTHERS = object()
INLINED = ("jit", "custom_jvp_call", "custom_vjp_call", "checkpoint", "closed_call")
EQUIVALENT = {
    "abs": "Abs", "add": "Add", "and": "And", "ceil": "Ceil", "copy": "Identity", "cos": "Cos",
    "div": "Div", "eq": "Equal", "erf": "Erf", "exp": "Exp", "floor": "Floor",
    "ge": "GreaterOrEqual", "gt": "Greater", "le": "LessOrEqual", "log": "Log",
    "logistic": "Sigmoid", "lt": "Less", "max": "Max", "min": "Min", "mul": "Mul", "neg": "Neg",
    "not": "Not", "optimization_barrier": "Identity", "or": "Or", "pow": "Pow", "sign": "Sign",
    "sin": "Sin", "sqrt": "Sqrt", "stop_gradient": "Identity", "sub": "Sub", "tanh": "Tanh",
}  # fmt: skip
REDUCTIONS = {"reduce_max": "ReduceMax", "reduce_min": "ReduceMin", "reduce_sum": "ReduceSum"}


VARIES = "a size that depends on the number of pictures"


class Unwritten(Exception):
    """Raised for an operation that this module cannot write as ONNX."""


class Graph:
    """Collects the nodes and constants of a program while it is written."""

    def __init__(self, given: str, rows: Any) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.symbol, self.rows = rows, self.add("Shape", given, end=1)

    def add(self, operator: str, *inputs: Value, outputs: int = 1, **attributes: Any) -> Any:
        """Writes a node, and returns the name of its result, or the names of several results."""
        names = [f"{operator}_{len(self.nodes)}_{output}" for output in range(outputs)]
        given = [value if isinstance(value, str) else self._constant(value) for value in inputs]
        self.nodes.append(helper.make_node(operator, given, names, **attributes))
        return names[0] if outputs == 1 else names

    def _constant(self, value: Any) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def transpose(self, value: Value, axes: Iterable[int]) -> Value:
        order = [int(axis) for axis in axes]
        is_name = isinstance(value, str)
        return self.add("Transpose", value, perm=order) if is_name else np.transpose(value, order)

    def reshape(self, value: Value, shape: Iterable[Any]) -> Value:
        # -1 stands for the number of rows, which ONNX infers from the other dimensions.
        sides = [side if isinstance(side, int) else -1 for side in shape]
        return self.add("Reshape", value, np.array(sides))

    def expand(self, value: Value, shape: Iterable[Any]) -> Value:
        sides = [self.rows if of is None else np.array([of]) for of in self.known(shape, None)]
        return self.add("Expand", value, self.add("Concat", *sides, axis=0))

    def known(self, sides: Iterable[Any], rows: Any) -> list[Any]:
        """Returns the dimensions, with `rows` in place of the symbol for the number of rows."""
        found = [rows if side is self.symbol or side == self.symbol else side for side in sides]
        if any(side is not rows and not isinstance(side, int) for side in found):
            raise Unwritten(VARIES)
        return found


def to_onnx(
    function: Callable[[Array], Array], shape: tuple[int, ...], dtype: Any, names: tuple[str, str]
) -> onnx.ModelProto:
    """Writes a function as an ONNX program.

    Args:
        function: Pure function from an array of shape [rows, *shape] to one of shape [rows, ...].
        shape: Shape of a row.
        dtype: Type of the rows.
        names: Names of the program's input and output.

    Raises:
        Unwritten: The function uses an operation that this module cannot write as ONNX.

    Example:
        >>> model = to_onnx(jax.nn.relu, (3,), np.float32, ("x", "y"))
        >>> [node.op_type for node in model.graph.node]
        ['Shape', 'Max', 'Identity']
    """
    (rows,) = export.symbolic_shape("rows")
    traced = jax.make_jaxpr(function)(jax.ShapeDtypeStruct((rows, *shape), dtype))
    graph = Graph(names[0], rows)
    found = _write(graph, traced, [names[0]])
    graph.nodes.append(helper.make_node("Identity", found, names[1:]))
    (like,) = traced.out_avals
    inputs, outputs = (
        [helper.make_tensor_value_info(name, _type(kind), ["rows", *sides])]
        for name, kind, sides in zip(
            names, (dtype, like.dtype), (shape, like.shape[1:]), strict=True
        )
    )
    made = helper.make_graph(graph.nodes, "classifier", inputs, outputs, graph.constants)
    opset = [helper.make_opsetid("", OPSET)]
    return helper.make_model(made, opset_imports=opset, ir_version=IR_VERSION)


def _type(dtype: Any) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _write(graph: Graph, closed: ClosedJaxpr, given: Sequence[Value]) -> list[Value]:
    """Writes all operations of a function, and returns its results."""
    jaxpr = closed.jaxpr
    values: dict[Any, Value] = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    values.update(zip(jaxpr.invars, given, strict=True))

    def valued(variables: Sequence[Any]) -> list[Value]:
        return [of.val if isinstance(of, Literal) else values[of] for of in variables]

    for eqn in jaxpr.eqns:
        values.update(zip(eqn.outvars, _results(graph, eqn, valued(eqn.invars)), strict=True))
    return valued(jaxpr.outvars)


def _results(graph: Graph, eqn: Any, given: list[Value]) -> Sequence[Value]:
    name, params = eqn.primitive.name, eqn.params
    if name == "platform_index":
        return [OTHERS]
    if name == "cond" and given[0] is OTHERS:
        return _write(graph, params["branches"][-1], given[1:])
    if name == "dim_as_value":
        raise Unwritten(VARIES)
    if name in INLINED:
        inner: Any = params.get("jaxpr", params.get("call_jaxpr"))
        return _write(graph, inner if hasattr(inner, "consts") else ClosedJaxpr(inner, ()), given)
    sides = [side for of in eqn.outvars for side in of.aval.shape]
    if all(isinstance(of, int) for of in sides) and not any(isinstance(of, str) for of in given):
        found = eqn.primitive.bind(*given, **params)
    elif name in EQUIVALENT:
        found = graph.add(EQUIVALENT[name], *given)
    elif name in REDUCTIONS:
        found = graph.add(REDUCTIONS[name], *given, np.array(params["axes"]), keepdims=0)
    elif name in RULES:
        found = RULES[name](graph, eqn, *given)
    else:
        raise Unwritten(name)
    return found if eqn.primitive.multiple_results else [found]


def _convolve(graph: Graph, eqn: Any, x: Value, kernel: Value) -> Value:
    params, order = eqn.params, eqn.params["dimension_numbers"]
    low, high = zip(*params["padding"], strict=True)
    if {*params["lhs_dilation"], params["batch_group_count"]} != {1} or min(low + high) < 0:
        raise Unwritten(
            "a convolution whose input is dilated, cropped or split into groups of rows"
        )
    found = graph.add(
        "Conv",
        graph.transpose(x, order.lhs_spec),
        graph.transpose(kernel, order.rhs_spec),
        strides=params["window_strides"],
        pads=low + high,
        dilations=params["rhs_dilation"],
        group=params["feature_group_count"],
    )
    return graph.transpose(found, np.argsort(order.out_spec))


def _pool(graph: Graph, eqn: Any, x: Value) -> Value:
    params = eqn.params
    if {*params["base_dilation"], *params["window_dilation"]} != {1}:
        raise Unwritten("dilated pooling")
    sizes = (params[name] for name in ("window_dimensions", "window_strides", "padding"))
    windows, one = list(zip(*sizes, strict=True)), (1, 1, (0, 0))
    # In ONNX, the first two axes are not pooled.
    axes = sorted(range(len(windows)), key=lambda axis: windows[axis] != one)
    if any(windows[axis] != one for axis in axes[:2]):
        raise Unwritten("pooling that leaves fewer than two axes unchanged")
    sides, strides, padding = zip(*(windows[axis] for axis in axes[2:]), strict=True)
    low, high = zip(*padding, strict=True)
    of: dict[str, Any] = {"kernel_shape": sides, "strides": strides, "pads": low + high}
    x = graph.transpose(x, axes)
    if eqn.primitive.name == "reduce_window_max":
        found = graph.add("MaxPool", x, **of)
    else:
        found = graph.add("AveragePool", x, count_include_pad=1, **of)
        found = graph.add("Mul", found, np.float32(np.prod(sides)))
    return graph.transpose(found, np.argsort(axes))


def _dot(graph: Graph, eqn: Any, left: Value, right: Value) -> Value:
    (of_left, of_right), (rows_left, rows_right) = eqn.params["dimension_numbers"]
    letters = iter(ascii_letters)
    first, second = ([next(letters) for _ in of.aval.shape] for of in eqn.invars)
    for ours, theirs in zip((*rows_left, *of_left), (*rows_right, *of_right), strict=True):
        second[theirs] = first[ours]
    rows = [first[axis] for axis in rows_left]
    free = [of for of in first if of not in second] + [of for of in second if of not in first]
    equation = "{},{}->{}".format(*map("".join, (first, second, rows + free)))
    return graph.add("Einsum", left, right, equation=equation)


def _broadcast(graph: Graph, eqn: Any, x: Value) -> Value:
    shape, axes = eqn.params["shape"], eqn.params["broadcast_dimensions"]
    has = dict(zip(axes, eqn.invars[0].aval.shape, strict=True))
    sides = [has.get(axis, 1) for axis in range(len(shape))]
    placed = graph.reshape(x, sides)
    # Where the wanted shape has a 1, ONNX's Expand leaves the dimension as it is.
    wanted = [1 if side == now else side for side, now in zip(shape, sides, strict=True)]
    return placed if set(wanted) <= {1} else graph.expand(placed, wanted)


def _gather(graph: Graph, eqn: Any, x: Value, index: Value) -> Value:
    """Writes a gather, which is how jax traces fixed indices if the number of rows is symbolic."""
    if isinstance(index, str):
        raise Unwritten("indices that depend on the pictures")
    axes, sides = eqn.params["dimension_numbers"].start_index_map, [*eqn.params["slice_sizes"]]
    along: list[int] = []
    for axis, starts in zip(axes, np.moveaxis(np.asarray(index), -1, 0), strict=True):
        varying = [of for of in range(starts.ndim) if np.ptp(starts, of).any()]
        if len(varying) > (sides[axis] == 1):
            raise Unwritten("indices that depend on one another")
        first = starts[tuple(slice(None) if of in varying else 0 for of in range(starts.ndim))]
        places = (np.atleast_1d(first)[:, None] + np.arange(sides[axis])).ravel()
        x, sides[axis] = graph.add("Gather", x, places, axis=axis), len(places)
        along += varying
    shape = eqn.outvars[0].aval.shape
    wide = [[side for side in of if side != 1] for of in (sides, shape)]
    if wide[0] != wide[1] or along != sorted(along):
        raise Unwritten("indexing that changes the order of axes")
    return graph.reshape(x, shape)


def _slice(graph: Graph, eqn: Any, x: Value) -> Value:
    starts = graph.known(eqn.params["start_indices"], None)
    ends = graph.known(eqn.params["limit_indices"], np.iinfo(np.int64).max)
    axes, steps = range(len(ends)), eqn.params["strides"] or [1] * len(ends)
    return graph.add("Slice", x, *map(np.array, (starts, ends, axes, steps)))


def _pad(graph: Graph, eqn: Any, x: Value, value: Value) -> Value:
    low, high, between = zip(*eqn.params["padding_config"], strict=True)
    if any(between):
        raise Unwritten("padding between elements")
    return graph.add("Pad", x, np.array(low + high), value)


def _select(graph: Graph, eqn: Any, which: Value, *cases: Value) -> Value:
    if eqn.invars[0].aval.dtype != bool:
        raise Unwritten("select_n with a number as its condition")
    return graph.add("Where", which, cases[1], cases[0])


def _split(graph: Graph, eqn: Any, x: Value) -> Value:
    sizes = np.array(eqn.params["sizes"])
    return graph.add("Split", x, sizes, outputs=len(sizes), axis=eqn.params["axis"])


def _tile(graph: Graph, eqn: Any, x: Value) -> Value:
    reps, sides = eqn.params["reps"], eqn.invars[0].aval.shape
    found, rows = graph.add("Tile", x, np.array(graph.known(reps, 1))), graph.symbol
    if rows not in reps:
        return found
    if any(side != 1 for side, rep in zip(sides, reps, strict=True) if rep == rows):
        raise Unwritten(VARIES)
    return graph.expand(found, [rows if rep == rows else 1 for rep in reps])


def _reshape(graph: Graph, eqn: Any, x: Value) -> Value:
    return graph.reshape(x, eqn.outvars[0].aval.shape)


RULES: dict[str, Callable[..., Value]] = {
    "broadcast_in_dim": _broadcast,
    "clamp": lambda graph, eqn, low, x, high: graph.add("Min", graph.add("Max", x, low), high),
    "concatenate": lambda graph, eqn, *x: graph.add("Concat", *x, axis=eqn.params["dimension"]),
    "conv_general_dilated": _convolve,
    "convert_element_type": lambda graph, eqn, x: graph.add(
        "Cast", x, to=_type(eqn.params["new_dtype"])
    ),
    "dot_general": _dot,
    "erfc": lambda graph, eqn, x: graph.add("Sub", np.float32(1), graph.add("Erf", x)),
    "expm1": lambda graph, eqn, x: graph.add("Sub", graph.add("Exp", x), np.float32(1)),
    "gather": _gather,
    "integer_pow": lambda graph, eqn, x: graph.add("Pow", x, np.float32(eqn.params["y"])),
    "log1p": lambda graph, eqn, x: graph.add("Log", graph.add("Add", x, np.float32(1))),
    "ne": lambda graph, eqn, *x: graph.add("Not", graph.add("Equal", *x)),
    "pad": _pad,
    "reduce_window_max": _pool,
    "reduce_window_sum": _pool,
    "reshape": _reshape,
    "rsqrt": lambda graph, eqn, x: graph.add("Reciprocal", graph.add("Sqrt", x)),
    "select_n": _select,
    "slice": _slice,
    "split": _split,
    "square": lambda graph, eqn, x: graph.add("Mul", x, x),
    "squeeze": _reshape,
    "tile": _tile,
    "transpose": lambda graph, eqn, x: graph.transpose(x, eqn.params["permutation"]),
}
