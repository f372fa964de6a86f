"""Computes fingerprints of functions and of what they close over, as they are in memory.

Two functions with the same fingerprint do the same thing, and so may share a compiled program. A
value has no fingerprint if it cannot be told apart from all other values.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
from collections.abc import Callable, Collection
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, type(Ellipsis)})
TUPLE = "builtins tuple"


class UnknownError(Exception):
    """Raised for a value that has no fingerprint."""


def fingerprint(value: Any, known: Callable[[str], bool]) -> str:
    """Returns a fingerprint of a value, in hexadecimal.

    Functions are told apart by their names, code, defaults and closures, and instances by their
    types and what they hold. A function's globals are not examined; see `code_of`.

    Args:
        value: A value, a function, or a container of values and functions.
        known: Function that takes a module's name and returns whether values from the module may be
            identified: types by their names, and other values as described above.

    Raises:
        UnknownError: The value holds something that is neither known nor made of known parts.

    Example:
        >>> def add(number):
        ...     return lambda x: x + number
        >>> one, other = (fingerprint(add(number), lambda module: True) for number in (1, 2))
        >>> one == other, one == fingerprint(add(1), lambda module: True)
        (False, True)
    """
    return _Walk(known).digest(value)


def code_of(modules: Collection[str], known: Callable[[str], bool]) -> str:
    """Returns a fingerprint of all that modules define, as it is in memory, and of their files.

    The files are included because some of what a module does when it is imported, such as passing
    options to a decorator, leaves no code in memory.

    Args:
        modules: Names of modules that were imported.
        known: Function that takes a module's name and returns whether functions that the module
            creates may be identified by their code and by what they hold. If a lambda or an inner
            function is found that another module has created, the fingerprint equals no other.
    """
    walk = _Walk(known, frozenset(modules))
    defined = []
    for name in sorted(modules):
        module = sys.modules[name]
        pairs = [pair for pair in vars(module).items() if pair[0][:2] != "__"]
        defined.append((name, Path(module.__file__ or "").read_bytes(), pairs))
    return walk.digest(defined)


class _Walk:
    def __init__(self, known: Callable[[str], bool], inside: frozenset[str] = frozenset()) -> None:
        self.known = known
        # Modules whose types are identified by what they define, and not just by their names.
        self.inside = inside
        self.lenient = bool(inside)
        self.seen: dict[int, int] = {}
        # Keeps objects alive, because the id of a freed object may be given to a new object.
        self.alive: list[Any] = []

    def digest(self, value: Any) -> str:
        words: list[str] = []
        self.collect(value, words.append)
        return hashlib.sha256("\0".join(words).encode("utf-8", "surrogatepass")).hexdigest()

    def collect(self, value: Any, add: Callable[[str], object]) -> None:
        """Adds words that tell values apart; a number stands for an object that was met before."""
        kind = type(value)
        if kind in PLAIN:
            add(f"{kind.__name__} {value!r}")
            return
        number = self.seen.setdefault(id(value), len(self.seen))
        if number < len(self.alive):
            add(f"met {number}")
            return
        self.alive.append(value)
        parts = (TUPLE, *value) if kind is tuple else self.parts(value)
        if parts is None:
            if not self.lenient:
                raise UnknownError(f"{kind.__module__}.{kind.__qualname__}")
            add(f"a {kind.__qualname__}")
            return
        what, *held = parts
        add(f"{what} {len(held)}")
        for one in held:
            self.collect(one, add)

    def parts(self, value: Any) -> tuple[Any, ...] | None:
        """Returns a word for the kind of a value, and what the value holds; None if unknown."""
        if isinstance(value, CodeType):
            counts = value.co_argcount, value.co_posonlyargcount, value.co_kwonlyargcount
            names = value.co_names, value.co_varnames, value.co_flags, value.co_firstlineno
            handlers = getattr(value, "co_exceptiontable", b"")
            # These are numbers, names and bytes, which need not be examined one by one.
            consts = value.co_consts
            plain = [const if type(const) in PLAIN else type(const) for const in consts]
            rest = [const for const in consts if type(const) not in PLAIN]
            return (f"code {(value.co_code, counts, names, handlers, plain)}", *rest)
        if isinstance(value, FunctionType):
            return self.function(value)
        if isinstance(value, MethodType):
            return "method", value.__func__, value.__self__
        if isinstance(value, functools.partial):
            return "partial", value.func, value.args, value.keywords
        if isinstance(value, (staticmethod, classmethod)):
            return type(value).__name__, value.__func__
        if isinstance(value, property):
            return "property", value.fget
        if isinstance(value, ModuleType):
            return ("module", value.__name__) if self.lenient else None
        if isinstance(value, np.dtype):
            return "dtype", str(value)
        if isinstance(value, type):
            return self.type(value)
        return self.named(value) or self.instance(value)

    def function(self, value: FunctionType) -> tuple[Any, ...] | None:
        if not self.known(value.__module__ or ""):
            if not self.lenient:
                return None
            if "<" in value.__qualname__:
                # It has replaced the module's own function, so the fingerprint must match no other.
                return "replaced", os.urandom(16)
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        where = f"function {value.__module__} {value.__qualname__}"
        return where, value.__code__, value.__defaults__, value.__kwdefaults__, *cells

    def type(self, value: type) -> tuple[Any, ...] | None:
        where = f"type {value.__module__} {value.__qualname__}"
        if not self.lenient:
            # A type that a function creates may close over something.
            known = self.known(value.__module__) and "<locals>" not in value.__qualname__
            return (where,) if known else None
        if value.__module__ not in self.inside:
            return (where,)
        # The documentation is left out, and so is what Python and pydantic add to a class, because
        # they add some of it only while the class is used.
        skipped = (
            "__dict__", "__weakref__", "__doc__", "__slotnames__", "__pydantic_core_schema__"
        )  # fmt: skip
        return where, {name: one for name, one in vars(value).items() if name not in skipped}

    def named(self, value: Any) -> tuple[Any, ...] | None:
        """Returns the parts of a value that can be found by its name (`jax.nn.relu`), or None."""
        module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
        if isinstance(value, BuiltinFunctionType):
            module = module or "builtins"
        if not isinstance(module, str) or not isinstance(name, str) or not self.known(module):
            return None
        found: Any = sys.modules.get(module)
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is not value:
            return None
        # The value's attributes are parts too, such as the custom gradient of a function.
        held = getattr(value, "__dict__", {}).items() if self.lenient else ()
        return f"name {module} {name}", *held

    def instance(self, value: Any) -> tuple[Any, ...] | None:
        kind = type(value)
        where = f"{kind.__module__} {kind.__qualname__}"
        if not self.known(kind.__module__) and kind.__module__ != "builtins":
            return None
        if isinstance(value, (tuple, list)):
            return where, *value
        if isinstance(value, dict) or kind.__name__ == "mappingproxy":
            return where, *value.items()
        if isinstance(value, (set, frozenset)):
            return where, *sorted(_Walk(self.known, self.inside).digest(one) for one in value)
        if isinstance(value, (np.ndarray, np.generic)):
            array = np.asarray(value)
            return where, str(array.dtype), array.shape, array.tobytes()
        if is_dataclass(value) and "<locals>" not in kind.__qualname__:
            of_flax = ("parent", "name") if hasattr(kind, "scope") else ()
            names = (field.name for field in fields(value) if field.name not in of_flax)
            return where, kind, *((name, getattr(value, name)) for name in names)
        if isinstance(kind.__init__, FunctionType) and "<locals>" not in kind.__qualname__:
            # If Python code initializes an object, all of the object's state is in its attributes.
            has_slots = any("__slots__" in vars(base) for base in kind.__mro__)
            return None if has_slots else (where, kind, *vars(value).items())
        return None
