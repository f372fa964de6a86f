"""Stores compiled programs and the shapes of weights, so that the next start need not trace again.

JAX stores compiled programs too, but has to trace a step to find its program, and tracing takes
longer than anything else in a second start. In this module, a program is looked up by a fingerprint
that covers the step's functions as they are in memory, with all that they contain, and everything
else that decides the program: versions, options, shapes, the processor or accelerator. A step that
contains functions from modules that `STEP` does not name, such as your own loss, is traced as
usual.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import pickle
import platform
import sys
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import monitoring
from jax.experimental.serialize_executable import deserialize_and_load, serialize
from jax.stages import Compiled
from jaxtyping import PyTree

from jaxch5.data.parallel import cores
from jaxch5.framing import Size, height_and_width
from jaxch5.models.registry import shapes_by_tracing
from jaxch5.training.compiler import OPTIONS, compiler_options
from jaxch5.util.files import making
from jaxch5.util.fingerprint import UnknownError, code_of, fingerprint
from jaxch5.util.libraries import variable

# A setting of JAX does not change programs if its name contains one of these words.
WITHOUT_EFFECT = ("cache", "log", "debug", "traceback", "profile", "async_dispatch", "coordination")
# Maximum number of stored files; a file with a program takes several megabytes.
COUNT = 64
# The event by which JAX reports that it read a program from its own cache and did not compile it.
WAS_KEPT = "/jax/compilation_cache/cache_hits"


class Parts(NamedTuple):
    """Holds the modules and libraries that a program's functions come from.

    Attributes:
        modules: Names of jaxch5's modules.
        libraries: Names of libraries. If a library was installed from a release, its version
            determines its functions.
    """

    modules: frozenset[str]
    libraries: tuple[str, ...]

    def beside(self, *modules: str, libraries: tuple[str, ...] = ()) -> Parts:
        """Returns these parts together with further modules and libraries."""
        return Parts(self.modules | set(modules), self.libraries + libraries)


def _named(**parts: str) -> list[str]:
    each = ((package, name) for package, names in parts.items() for name in names.split())
    return [f"jaxch5.{package}.{name}" for package, name in each]


# The parts of a program that computes a network's output for pictures.
OUTPUT = Parts(frozenset(), ("flax", "jax", "jaxlib", "numpy")).beside(
    *(f"jaxch5.{name}" for name in ["batch", "framing", "losses", "metrics", "task", "view"]),
    *_named(
        augmentation="center geometry resample sample",
        models="convnext convolution depthwise features layers maps pooling positions registry "
        "resnet spec vit winograd",
    ),
)
# The parts of a training step or an evaluation step.
STEP = OUTPUT.beside(
    *_named(
        augmentation="color mixing policy",
        optim="groups optimizer schedule",
        training="class_weights freezing mesh precision recipe reduction resident state step tta",
    ),
    libraries=("dm_pix", "optax"),
)


def kept(
    make: Callable[[], Compiled], environment: str | None, *of: Any, parts: Parts = STEP
) -> Compiled:
    """Returns a compiled function: one stored by an earlier process, or else the result of `make`.

    Args:
        make: Function that traces and compiles the code, and returns the compiled function.
        environment: Result of `environment_of`; with None, nothing is read or stored.
        of: Everything that defines the compiled function: functions, options, shapes of arguments.
        parts: Modules and libraries that the functions come from.
    """
    file = _file_of(environment, of, parts)
    with suppress(Exception):
        # A processor may refuse a program although the file is intact.
        if (stored := _read(file)) is not None:
            return deserialize_and_load(*pickle.loads(stored))
    made, is_new = _made(make)
    # A program that was read from JAX's cache cannot be written in a form that can be read again.
    if is_new:
        with suppress(Exception):
            _write(file, pickle.dumps(serialize(made)))
    return made


def kept_shapes(model: nn.Module, size: Size) -> tuple[PyTree, PyTree]:
    """Returns the shapes of a network's outputs for one picture, and of its variables.

    An earlier process may have stored the shapes.

    Args:
        model: Module that is called on pictures.
        size: Side of the pictures, or their height and width, in pixels.
    """
    sides = height_and_width(size)
    environment = environment_of(OUTPUT) if folder_of_steps() else None
    file = _file_of(environment, ("outputs and shapes", model, sides), OUTPUT)
    with suppress(Exception):
        if (stored := _read(file)) is not None:
            return _shapes_in(stored)
    outputs, variables = shapes_by_tracing(model, sides)
    with suppress(Exception):
        # Not a pickle: loading one can run code, and shapes help to check untrusted weights.
        flat = flatten_dict({"outputs": outputs, "variables": variables})
        rows = [(path, leaf.shape, leaf.dtype.name) for path, leaf in flat.items()]
        if _shapes_in(text := json.dumps(rows).encode()) == (outputs, variables):
            _write(file, text)
    return outputs, variables


def _shapes_in(text: bytes) -> tuple[PyTree, PyTree]:
    rows = json.loads(text)
    shapes = unflatten_dict(
        {
            tuple(path): jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(kind))
            for path, shape, kind in rows
        }
    )
    return shapes["outputs"], shapes["variables"]


class KeptJit:
    """Compiles a function as `jax.jit` does, and stores the programs for later processes.

    Args:
        function: Function of trees of arrays; its programs for several devices are not stored.
        beside: Names of modules of jaxch5 that the function uses besides those in `OUTPUT`.
    """

    def __init__(self, function: Callable[..., Any], *beside: str) -> None:
        self.function = function
        self.parts = OUTPUT.beside(*beside)
        self.programs: dict[Any, Callable[..., Any]] = {}

    @cached_property
    def jitted(self) -> Any:
        """The function wrapped by `jax.jit`, which is not needed to read a stored program."""
        return jax.jit(self.function, compiler_options=compiler_options())

    def __call__(self, *args: Any) -> Any:
        leaves, structure = jax.tree.flatten(args)
        shapes = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        if (structure, shapes) not in self.programs:
            self.programs[structure, shapes] = self._compiled(args, leaves)
        return self.programs[structure, shapes](*args)

    def _compiled(self, args: Any, leaves: list[Any]) -> Callable[..., Any]:
        shared = (len(leaf.devices()) > 1 for leaf in leaves if isinstance(leaf, jax.Array))
        if folder_of_steps() is None or any(shared):
            return self.jitted
        # `OPTIONS` suffices here: the environment determines which of these jaxlib accepts.
        of = environment_of(self.parts), self.function, shapes_of(args), OPTIONS
        return kept(lambda: self.jitted.lower(*args).compile(), *of, parts=self.parts)


def _made(make: Callable[[], Compiled]) -> tuple[Compiled, bool]:
    hits, thread = [], threading.get_ident()

    def listen(event: str, **_: Any) -> None:
        if event == WAS_KEPT and threading.get_ident() == thread:
            hits.append(event)

    monitoring.register_event_listener(listen)
    try:
        return make(), not hits
    finally:
        monitoring.unregister_event_listener(listen)


def folder_of_steps() -> Path | None:
    """Returns the folder for stored files, inside JAX's cache folder; None if the cache is off."""
    values = jax.config.values
    folder = values["jax_compilation_cache_dir"]
    return Path(folder) / "steps" if folder and values["jax_enable_compilation_cache"] else None


def is_known(module: str, parts: Parts = STEP) -> bool:
    """Checks whether the result of `environment_of` determines the functions of a module.

    Args:
        module: Name of a module.
        parts: Modules and libraries that a program's functions may come from.
    """
    is_ours = module.startswith("jaxch5.")
    return module in parts.modules if is_ours else _is_installed(module, parts.libraries)


def _is_installed(module: str, libraries: Collection[str]) -> bool:
    root = module.partition(".")[0]
    return root == "jaxch5" or root in libraries or root in sys.stdlib_module_names


def environment_of(parts: Parts = STEP) -> str | None:
    """Returns a fingerprint of all that decides a program besides its functions and shapes.

    The result is None if programs are not to be stored, that is, if there are several processes or
    a library is imported from a source folder.

    Args:
        parts: Modules and libraries that the program's functions come from.
    """
    if jax.process_count() > 1:
        return None
    for name in parts.modules:
        # The fingerprint must cover the same modules, whatever was imported before.
        importlib.import_module(name)
    libraries = [importlib.import_module(name) for name in parts.libraries]
    if not all("-packages" in (module.__file__ or "") for module in libraries):
        return None
    devices = jax.devices()
    client = devices[0].client
    return fingerprint(
        (
            code_of(parts.modules, partial(_is_installed, libraries=parts.libraries)),
            [(module.__name__, module.__version__) for module in libraries],
            (sys.version, platform.machine(), _processor(), cores()),
            (client.platform, client.platform_version),
            [(device.id, device.device_kind) for device in devices],
            {name: variable(name) for name in ("XLA_FLAGS", "NPROC", "LIBTPU_INIT_ARGS")},
            [(name, repr(value)) for name, value in sorted(_settings().items())],
        ),
        partial(is_known, parts=parts),
    )


def shapes_of(args: Any) -> Any:
    """Returns what a program depends on in its arguments: structure, shapes, types, shardings."""
    leaves, structure = jax.tree.flatten(args)
    of_leaves = [
        (tuple(leaf.shape), str(leaf.dtype), bool(getattr(leaf, "weak_type", False)))
        for leaf in leaves
    ]
    places = [str(getattr(leaf, "sharding", None)) for leaf in leaves]
    return str(structure), of_leaves, places


def _settings() -> dict[str, Any]:
    # Settings are read one by one, because a thread may have its own values.
    return {
        name: getattr(jax.config, name, value)
        for name, value in jax.config.values.items()
        if not any(word in name for word in WITHOUT_EFFECT)
    }


def _processor() -> str:
    # Machines may share a cache folder, and a program may need features that some machines lack.
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        told = ("model name", "flags", "Features", "CPU part")
        return "\n".join(sorted({line for line in lines if line.startswith(told)}))
    return platform.processor()


def _file_of(environment: str | None, of: Any, parts: Parts) -> Path | None:
    """Returns the file for what `of` and an environment define; None if that is not stored."""
    folder = folder_of_steps()
    if environment is None or folder is None:
        return None
    with suppress(UnknownError):
        return folder / fingerprint((environment, of), partial(is_known, parts=parts))
    return None


def _read(file: Path | None) -> bytes | None:
    if file is None:
        return None
    # Whatever is wrong with the file, its content can be computed again.
    with suppress(Exception):
        content = file.read_bytes()
        stored = content[32:]
        if hashlib.sha256(stored).digest() == content[:32]:
            with suppress(OSError):
                # This user may not be allowed to write to the folder.
                os.utime(file)
            return stored
    return None


def _write(file: Path | None, content: bytes) -> None:
    if file is None:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with making(file) as scratch:
        scratch.write_bytes(hashlib.sha256(content).digest() + content)
    others = [other for other in file.parent.iterdir() if not other.name.startswith(".")]
    for old in sorted(others, key=lambda other: -other.stat().st_mtime)[COUNT:]:
        old.unlink(missing_ok=True)
