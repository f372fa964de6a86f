"""Counts what a training step does once XLA has compiled it for an NVIDIA GPU; needs no GPU.

If the extra `gpu-program` is installed, XLA's compiler for GPUs runs on any machine. It returns the
optimized program of an entire step, including augmentation and the optimizer. The benchmark counts
the kernels in the text of this program, the bytes that they read and write, convolutions, matrix
products and messages. No program is run, timed or autotuned, so the benchmark does not know which
algorithm a convolution will use, nor how much memory that algorithm will need.

    python benchmarks/gpu_program.py resnet50/bf16 resnet50/bf16/deterministic

A program is described by an architecture and words from `WORDS`. The figures are for one step on
one GPU, even if one call makes several steps or if eight GPUs share a step.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from common import arguments_of, tell
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, Sharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from jaxch5.augmentation.policy import aug_transforms
from jaxch5.batch import CachedBatch
from jaxch5.losses import cross_entropy
from jaxch5.models.registry import create_model, spec_of
from jaxch5.training.compiler import DETERMINISTIC
from jaxch5.training.freezing import Frozen, layer_groups, shapes_of
from jaxch5.training.mesh import DEVICES, PROCESSES, Placement
from jaxch5.training.precision import dtype_of, loss_scale
from jaxch5.training.recipe import Recipe
from jaxch5.training.resident import make_many_steps, stacked
from jaxch5.training.state import TrainState
from jaxch5.training.step import make_train_step

# From NVIDIA's data sheets of the H100 and H200 SXM: bytes per second that the memory can deliver,
# bytes of memory, and the device's name.
GPUS = {
    "h100": (3.35e12, 80 * 10**9, "NVIDIA H100 80GB HBM3"),
    "h200": (4.8e12, 141 * 10**9, "NVIDIA H200"),
}
# From NVIDIA's H100 architecture paper and the CUDA C++ programming guide, compute capability 9.0.
TARGET = """
gpu_device_info {{
  cuda_compute_capability {{ major: 9 feature_extension: ACCELERATED_FEATURES }}
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472 registers_per_block_limit: 65536 registers_per_core_limit: 65536
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98 l2_cache_size: 52428800
  memory_bandwidth: {0:.0f} device_memory_size: {1}
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 12 }} device_description_str: "{2}"
"""
# Words that may follow a program's architecture, and the settings that they stand for.
WORDS: dict[str, dict[str, Any]] = {
    **{precision: {"precision": precision} for precision in ("fp32", "bf16", "fp16")},
    "deterministic": {"deterministic": True},
    "remat": {"remat": True},
    "scan": {"steps": 32},
    "global": {"devices": 8, "bn": "global"},
    "local": {"devices": 8, "bn": "local"},
    # For some products, XLA finds tile sizes only by trying them on a GPU.
    "cublas": {"options": ("xla_gpu_enable_triton_gemm=False",)},
}


def gpus_of(name: str, count: int = 1) -> list[Any]:
    """Returns GPUs of the kind that `GPUS` describes; they need not be present to compile for them.

    Args:
        name: Name of the kind in `GPUS`.
        count: Number of GPUs.
    """
    target = TARGET.format(*GPUS[name])
    topology = f"1x1x{count}"
    return topologies.get_topology_desc("", "cuda", topology=topology, target_config=target).devices


def stored(tree: Any, where: Sharding) -> Any:
    """Returns the shapes of some arrays, each together with the place where it is stored."""
    on = partial(jax.ShapeDtypeStruct, sharding=where)
    return jax.tree.map(lambda leaf: on(leaf.shape, leaf.dtype), tree)


@dataclass(frozen=True)
class Program:
    """Describes a training step: its network, its pictures and its settings."""

    arch: str = "resnet50"
    size: int = 224
    presize: int = 256
    batch: int = 256
    items: int = 4000
    precision: str = "bf16"
    deterministic: bool = False
    remat: bool = False
    bn: str = "global"
    devices: int = 1
    steps: int = 1
    gpu: str = "h100"
    options: tuple[str, ...] = ()

    def compile(self) -> Any:
        """Returns the step, or several steps in one call, compiled for one or more GPUs."""
        gpus = gpus_of(self.gpu, self.devices)
        place, mesh = Placement(*2 * [SingleDeviceSharding(gpus[0])]), None
        if self.devices > 1:
            mesh = Mesh(np.reshape(gpus, (1, -1)), (PROCESSES, DEVICES))
            rows = NamedSharding(mesh, P(mesh.axis_names))
            place = Placement(NamedSharding(mesh, P()), rows)
        recipe = Recipe(self.precision, remat=self.remat, bn=self.bn, loss=cross_entropy)
        spec, dtype = spec_of(self.arch), dtype_of(self.precision)
        model = create_model(self.arch, 1000, dtype=dtype, remat=self.remat)
        _, shapes = shapes_of(model, self.size)
        groups = layer_groups("fastai", spec, list(shapes["params"]))
        optimizer = Frozen(model, shapes, spec, groups, 0, recipe).optimizer
        step = make_train_step(
            model, recipe, aug_transforms(), self.size, optimizer=optimizer, mesh=mesh
        )

        state = TrainState(
            step=jnp.int32(0),
            params=shapes["params"],
            batch_stats=shapes.get("batch_stats", {}),
            opt_state=jax.eval_shape(optimizer.init, shapes["params"]),
            scale=loss_scale(self.precision),
            average=None,
            epoch_loss=jnp.zeros(()),
            epoch_skipped=jnp.int32(0),
        )
        everywhere = place.everywhere
        state, key = stored((state, jax.random.key(0)), everywhere)
        canvases = (self.items, self.presize, self.presize * 3 // 2, 3)
        of_set = (canvases, jnp.uint8), ((self.items, 3, 3), jnp.float32)
        of_row = [((self.batch,), kind) for kind in (*3 * [jnp.int32], jnp.bool_)]
        batch = CachedBatch(*(jax.ShapeDtypeStruct(*one) for one in (*of_set, *of_row)))
        after = jax.tree.map(lambda leaf: leaf.sharding, state)
        options = dict(option.split("=", 1) for option in self.options)
        jit = partial(
            jax.jit,
            donate_argnums=0,
            out_shardings=(after, everywhere),
            compiler_options=options | (DETERMINISTIC if self.deterministic else {}),
        )
        if self.steps == 1:
            lowered = jit(step).lower(state, place.shapes(batch), key)
        else:
            rates = stored(jnp.zeros((self.steps, len(groups.names))), everywhere)
            many = place.shapes(stacked(batch, self.steps))
            momentum = stored(jnp.zeros(self.steps), everywhere)
            lowered = jit(make_many_steps(step)).lower(state, many, rates, momentum, key)
        return lowered.compile()


class Array(NamedTuple):
    """Describes an array in a program by its type and its dimensions."""

    kind: str
    dims: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return prod(self.dims) * max(1, int(re.sub(r"\D", "", self.kind) or 8) // 8)


class Instruction(NamedTuple):
    """Describes a line of a program.

    It is a kernel or a library call, unless its opcode is in FREE or it is part of a fusion.
    """

    name: str
    results: tuple[Array, ...]
    opcode: str
    operands: tuple[str, ...]
    attributes: str


# Operations that need no kernel.
FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while", "opt-barrier"}
FREE |= {"all-reduce-done", "all-gather-done", "reduce-scatter-done"}
LINE = re.compile(r"\s+(?:ROOT )?%(\S+) = (.*?) ([a-z][a-z\d-]*)\((.*?)\)(.*)")
# An array with at least this many values per picture is an activation; filters are smaller.
ACTIVATION = 4096


def arrays(text: str) -> tuple[Array, ...]:
    """Returns the arrays in the text of a type.

    Example:
        >>> arrays("(bf16[8,4]{1,0}, pred[])")
        (Array(kind='bf16', dims=(8, 4)), Array(kind='pred', dims=()))
    """
    found = re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", text)
    return tuple(Array(kind, tuple(map(int, filter(None, d.split(","))))) for kind, d in found)


def computations(text: str) -> dict[str, list[Instruction]]:
    """Returns the computations of a program, keyed by name; the program itself is ENTRY."""
    found: dict[str, list[Instruction]] = {}
    for line in text.splitlines():
        if head := re.match(r"(?:(ENTRY) )?%?(\S+) \(.*\{$", line):
            current = found.setdefault(head[1] or head[2], [])
        elif match := LINE.match(line):
            name, results, opcode, operands, attributes = match.groups()
            read = tuple(re.findall(r"%([\w.-]+)", operands))
            current.append(Instruction(name, arrays(results), opcode, read, attributes))
    return found


def counted(text: str, rows: int) -> dict[str, Any]:
    """Counts what a program does in one step.

    Args:
        text: Optimized program, as XLA writes it.
        rows: Number of pictures that one GPU processes in a step.
    """
    parts = computations(text)
    loops = [one for one in parts["ENTRY"] if one.opcode == "while"]
    kernels = parts[attribute(loops[0], "body")] if loops else parts["ENTRY"]
    results = {kernel.name: kernel.results for kernel in kernels}
    total: Counter[str] = Counter()
    convolutions, products, messages, wide, moved = (Counter[str]() for _ in range(5))
    scattered, sent = 0, [0]

    def activations(results: tuple[Array, ...]) -> Iterator[Array]:
        for array in results:
            if array.dims[:1] == (rows,) and prod(array.dims) >= rows * ACTIVATION:
                yield array

    for kernel in kernels:
        if kernel.opcode in FREE:
            continue
        fused = parts.get(attribute(kernel, "calls"), [])
        within = {one.name: one.results for one in fused} | results
        written = sum(array.bytes for array in kernel.results)
        read = [sum(array.bytes for array in results[name]) for name in {*kernel.operands}]
        if {one.opcode for one in fused} & {"gather", "slice", "dynamic-slice"}:
            # These operations read only a part of their operand.
            read = [min(size, 4 * written) for size in read]
        total["kernels"] += 1
        total["bytes"] += sum(read) + written
        for one in [*fused, kernel]:
            total["sorts"] += one.opcode == "sort"
            first = [within[name][0] for name in one.operands if within.get(name)]
            if one.opcode == "dot":
                products[first[0].kind] += 1
            if one.opcode == "scatter":
                scattered = max(scattered, first[1].dims[0])
            if one.opcode in ("copy", "transpose"):
                moved.update(array.kind for array in activations(one.results))
        called = attribute(kernel, "custom_call_target").strip('"')
        if called.startswith("__cudnn$conv"):
            convolutions[f"{called[12:]} {results[kernel.operands[0]][0].kind}"] += 1
        elif called.startswith("__cublas"):
            products[results[kernel.operands[0]][0].kind] += 1
        if kernel.opcode.startswith(("all-", "reduce-scatter", "collective")):
            sent.append(written)
            for array in kernel.results:
                messages[f"{kernel.opcode.removesuffix('-start')} {array.kind}"] += 1
        wide.update(array.kind for array in activations(kernel.results))
    return {
        "kernels": total["kernels"],
        "GB": total["bytes"] / 1e9,
        "convolutions": dict(convolutions),
        "products": dict(products),
        "kept": dict(wide),
        "moved": dict(moved),
        "sorts": total["sorts"],
        "scattered": scattered,
        "messages": dict(messages),
        "sent, MB": sum(sent) / 1e6,
        "largest message, MB": max(sent) / 1e6,
    }


def attribute(instruction: Instruction, name: str) -> str:
    """Returns an instruction's attribute, without the % before the name of a computation."""
    found = re.search(rf"\b{name}=%?([^\s,]+)", instruction.attributes)
    return found[1] if found else ""


def described(words: str, **settings: Any) -> Program:
    """Returns the program that an architecture and words describe, as in "resnet50/bf16/scan"."""
    arch, *others = words.split("/")
    for word in others:
        settings |= WORDS[word]
    return Program(arch, **settings)


def facts(program: Program, text: Path | None = None) -> dict[str, Any]:
    """Counts what a program does in one step on one GPU, and the memory that it needs."""
    begin = time.process_time()
    compiled = program.compile()
    seconds = time.process_time() - begin
    if text:
        text.write_text(compiled.as_text(), encoding="utf-8")
    found = counted(compiled.as_text(), program.batch // program.devices)
    memory = compiled.memory_analysis()
    milliseconds = found["GB"] / GPUS[program.gpu][0] * 1e12
    return {
        **found,
        "temporaries, GB": memory.temp_size_in_bytes / 1e9,
        "ms at full bandwidth": milliseconds,
        "CPU seconds to compile": seconds,
    }


def main() -> None:
    parser = arguments_of(__doc__, turns=None, device=False)
    parser.add_argument("programs", nargs="+", help="programs, such as resnet50/bf16/scan")
    parser.add_argument("--size", type=int, default=224, help="side of the pictures, pixels")
    parser.add_argument(
        "--presize", type=int, default=256, help="short side of the canvases, pixels"
    )
    parser.add_argument("--batch", type=int, default=256, help="pictures per step, over all GPUs")
    parser.add_argument("--gpu", choices=GPUS, default="h100")
    parser.add_argument(
        "--options", nargs="+", default=[], metavar="NAME=VALUE", help="options for XLA"
    )
    parser.add_argument("--text", type=Path, help="where to write the last program's text")
    arguments = vars(parser.parse_args())
    names, text, as_json = (arguments.pop(name) for name in ("programs", "text", "json"))
    arguments["options"] = tuple(arguments["options"])
    # Without this line, JAX looks for a GPU if its GPU plugin is installed.
    jax.config.update("jax_platforms", "cpu")
    tell({name: facts(described(name, **arguments), text) for name in names}, as_json)


if __name__ == "__main__":
    main()
