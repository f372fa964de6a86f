"""Compiled steps that are kept for the next start, which then neither traces nor compiles them.

jax keeps compiled programs too, but finds one by tracing the step first, which takes longer than
all else in a second start. Here a step is found by a fingerprint of the functions that it is made
of, as they are in memory, with all they hold; and of what else decides the program: versions,
options, shapes, the processor or accelerator. A step that holds anything else, such as a loss of
one's own, is traced as ever.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import platform
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
from jax import monitoring
from jax.experimental.serialize_executable import deserialize_and_load, serialize
from jax.stages import Compiled

from jaxch5.data.parallel import cores
from jaxch5.util.files import making
from jaxch5.util.fingerprint import UnknownError, code_of, fingerprint

# Packages and modules whose functions a step is made of, beside libraries.
_PARTS = "augmentation batch framing losses metrics models optim task training view"
_RESULTS = "results.about results.attribution results.predictor"
OURS = tuple(f"jaxch5.{name}" for name in f"{_PARTS} {_RESULTS}".split())
# Libraries whose functions are the same in one version, where they were installed as released.
LIBRARIES = ("flax", "jax", "jaxlib", "numpy", "optax")
BUILT_IN = ("builtins", "collections", "dataclasses", "functools", "jaxtyping", "math", "operator")
# Settings of jax that change no program.
WITHOUT_EFFECT = ("cache", "log", "debug", "traceback", "profile", "async_dispatch", "coordination")
# Programs that are kept; each takes some megabytes.
COUNT = 64
# The event by which jax says that it did not compile a program but had kept it.
WAS_KEPT = "/jax/compilation_cache/cache_hits"


def kept(make: Callable[[], Compiled], environment: str | None, *of: Any) -> Compiled:
    """Returns a compiled function: one that an earlier process kept, or else what `make` compiles.

    Args:
        make: Function that traces and compiles it.
        environment: What `environment_of` returns; None keeps nothing.
        of: All that it is made of: functions, options, and the shapes of its arguments.
    """
    folder = folder_of_steps()
    if environment is None or folder is None:
        return make()
    try:
        name = fingerprint((environment, of), is_known)
    except UnknownError:
        return make()
    file = folder / name
    if (found := _read(file)) is not None:
        return found
    made, is_new = _made(make)
    # XLA writes less of a program that it has read than it needs to read it again.
    if is_new:
        with suppress(Exception):
            _write(file, made)
    return made


class KeptJit:
    """Computes a function as `jax.jit` does, by programs that are kept.

    Args:
        function: Function of trees of arrays, on one device.
        options: Options of the compiler.
    """

    def __init__(self, function: Callable[..., Any], options: dict[str, str]) -> None:
        self.function = function
        self.options = options
        self.jitted = jax.jit(function, compiler_options=options)
        self.programs: dict[Any, Callable[..., Any]] = {}

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
        of = self.function, shapes_of(args), self.options
        return kept(lambda: self.jitted.lower(*args).compile(), environment_of(), *of)


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
    """Returns where steps are kept: beside the programs that jax keeps, if it does."""
    values = jax.config.values
    folder = values["jax_compilation_cache_dir"]
    return Path(folder) / "steps" if folder and values["jax_enable_compilation_cache"] else None


def is_known(module: str) -> bool:
    """Tells whether a module's functions are the same wherever `environment_of` is."""
    return module.split(".")[0] in LIBRARIES + BUILT_IN or is_ours(module)


def is_ours(module: str) -> bool:
    """Tells whether a module of this package may be part of a step."""
    return module.startswith(tuple(f"{name}." for name in OURS)) or module in OURS


def environment_of() -> str | None:
    """Returns a fingerprint of all that decides a program beside its functions and shapes.

    It is None where steps are not kept: where there are several processes, or a library is not as
    it was released.
    """
    if jax.process_count() > 1:
        return None
    libraries = [sys.modules[name] for name in LIBRARIES if name in sys.modules]
    if not all("-packages" in (module.__file__ or "") for module in libraries):
        return None
    devices = jax.devices()
    client = devices[0].client
    return fingerprint(
        (
            code_of([name for name in list(sys.modules) if is_ours(name)], is_known),
            [(module.__name__, module.__version__) for module in libraries],
            (sys.version, platform.machine(), _processor(), cores()),
            (client.platform, client.platform_version),
            [(device.id, device.device_kind) for device in devices],
            {name: os.environ.get(name) for name in ("XLA_FLAGS", "NPROC", "LIBTPU_INIT_ARGS")},
            [(name, repr(value)) for name, value in sorted(_settings().items())],
        ),
        is_known,
    )


def shapes_of(args: Any) -> Any:
    """Returns what a program knows of its arguments: their structure, shapes, types and places."""
    leaves, structure = jax.tree.flatten(args)
    of_leaves = [
        (tuple(leaf.shape), str(leaf.dtype), bool(getattr(leaf, "weak_type", False)))
        for leaf in leaves
    ]
    places = [str(getattr(leaf, "sharding", None)) for leaf in leaves]
    return str(structure), of_leaves, places


def _settings() -> dict[str, Any]:
    # Read one by one, since a thread may have its own.
    return {
        name: getattr(jax.config, name, value)
        for name, value in jax.config.values.items()
        if not any(word in name for word in WITHOUT_EFFECT)
    }


def _processor() -> str:
    # A folder may be shared by machines, one of which does not have what another one compiled for.
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        told = ("model name", "flags", "Features", "CPU part")
        return "\n".join(sorted({line for line in lines if line.startswith(told)}))
    return platform.processor()


def _read(file: Path) -> Compiled | None:
    # Whatever is wrong with it, it can be compiled.
    with suppress(Exception):
        content = file.read_bytes()
        stored = content[32:]
        if hashlib.sha256(stored).digest() == content[:32]:
            program, structure, outputs = pickle.loads(stored)
            found = deserialize_and_load(program, structure, outputs)
            os.utime(file)
            return found
    return None


def _write(file: Path, made: Compiled) -> None:
    content = pickle.dumps(serialize(made))
    file.parent.mkdir(parents=True, exist_ok=True)
    with making(file) as scratch:
        scratch.write_bytes(hashlib.sha256(content).digest() + content)
    others = [other for other in file.parent.iterdir() if not other.name.startswith(".")]
    for old in sorted(others, key=lambda other: -other.stat().st_mtime)[COUNT:]:
        old.unlink(missing_ok=True)
