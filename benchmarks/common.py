"""Provides what the benchmarks share: parsing arguments, taking turns and printing figures.

Both sides import this module, so importing it needs neither jaxch5 nor its peers. Only our side
calls `use_device`, which does need jaxch5.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

SUFFIXES = (".jpg", ".jpeg", ".png")
# Seconds to wait before each turn, so that whatever the previous side left running comes to rest:
# threads that spin while they wait for work, and worker processes that are ending.
REST = 1.0
# The name that both JAX and PyTorch use for each `--device`.
PLATFORMS = {"cpu": "cpu", "gpu": "cuda"}


def arguments_of(
    doc: str, turns: int | None = 5, device: bool = True, path: bool = False
) -> argparse.ArgumentParser:
    """Returns a parser with the arguments that benchmarks have in common.

    Args:
        doc: Docstring of the benchmark's module; its first line is shown.
        turns: Default number of turns, or None if the benchmark has no turns.
        device: Whether the benchmark can run on an accelerator.
        path: Whether the benchmark needs photographs.
    """
    parser = argparse.ArgumentParser(description=doc.split("\n", 1)[0])
    if path:
        parser.add_argument(
            "--path",
            type=Path,
            default=os.environ.get("JAXCH5_FLOWERS") or None,
            help="folder with one folder of photographs per class (default: JAXCH5_FLOWERS)",
        )
    if turns is not None:
        parser.add_argument(
            "--turns", type=int, default=turns, help=f"number of turns per side (default: {turns})"
        )
    if device:
        parser.add_argument(
            "--device", choices=PLATFORMS, default="cpu", help="device of both sides (default: cpu)"
        )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def use_device(device: str, keep_memory: bool = True) -> None:
    """Makes JAX compute on a device; call it before JAX computes anything.

    By default JAX reserves three quarters of a GPU's memory when it starts. Here it reserves less,
    because both sides share that memory. With `keep_memory`, the memory that a step has freed is
    kept for the next step, as in jaxch5's commands.
    """
    share = "XLA_PYTHON_CLIENT_MEM_FRACTION"
    os.environ[share] = os.environ.get(share) or ".45"
    import jax

    from jaxch5.training.process import keep_freed_memory

    jax.config.update("jax_platforms", PLATFORMS[device])
    if keep_memory:
        keep_freed_memory()


def find_files(path: Path | None, repeat: int = 1) -> list[str]:
    """Returns all pictures below a folder, each `repeat` times."""
    if path is None:
        sys.exit("--path or JAXCH5_FLOWERS should name a folder of pictures")
    files = sorted(str(file) for file in path.resolve().rglob("*") if file.suffix in SUFFIXES)
    if not files:
        sys.exit(f"{path} contains no pictures")
    return files * repeat


def seconds_of(work: Callable[[], Any]) -> float:
    """Measures how long a call takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def in_turn(
    sides: Mapping[str, Callable[[], float]], turns: int, uncounted: int = 1, rest: float = REST
) -> dict[str, list[float]]:
    """Measures each side in turn, as in A B A B, so that a slow minute affects every side.

    Args:
        sides: Functions, keyed by the name of their side, that measure one figure per call.
        turns: Number of figures to keep for each side.
        uncounted: Number of turns before the ones that are kept; in them, compilers, caches and
            clock rates settle.
        rest: Seconds to wait before each side's turn.

    Example:
        >>> numbers = iter(range(6))
        >>> in_turn({"a": lambda: next(numbers), "b": lambda: next(numbers)}, turns=2, rest=0)
        {'a': [2, 4], 'b': [3, 5]}
    """
    figures: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(uncounted + turns):
        for name, side in sides.items():
            time.sleep(rest)
            figure = side()
            if turn >= uncounted:
                figures[name].append(figure)
    return figures


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns the median, the lowest and the highest of some figures.

    Example:
        >>> spread([1.0, 4.0, 2.0])
        {'median': 2.0, 'low': 1.0, 'high': 4.0}
    """
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def mean_text(values: Sequence[float]) -> str:
    """Formats the mean, the lowest and the highest of some figures.

    Example:
        >>> mean_text([1.0, 4.0, 2.5])
        '2.5 (1.0 to 4.0)'
    """
    return f"{statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def ratio(ours: Sequence[float], peer: Sequence[float]) -> dict[str, float]:
    """Divides our figure by the peer's in each turn, and returns the spread of these ratios.

    Example:
        >>> ratio([2.0, 6.0, 4.0], [1.0, 2.0, 4.0])
        {'median': 2.0, 'low': 1.0, 'high': 3.0}
    """
    return spread([mine / theirs for mine, theirs in zip(ours, peer, strict=True)])


def best(figures: Mapping[str, Sequence[float]]) -> str:
    """Returns the name of the side with the highest median.

    Example:
        >>> best({"a": [1.0, 9.0, 2.0], "b": [3.0, 3.0, 3.0]})
        'b'
    """
    return max(figures, key=lambda name: statistics.median(figures[name]))


def show(values: Mapping[str, Any], digits: int | None = None) -> str:
    """Formats a spread and any other values that the mapping contains.

    Example:
        >>> show({"median": 2.0, "low": 1.0, "high": 4.0}, 1)
        '2.0 (1.0 to 4.0)'
        >>> show({"median": 1234.5, "low": 1.0, "high": 4000.0, "layout": "contiguous"})
        '1,234 (1 to 4,000), layout contiguous'
    """
    if digits is None:
        digits = next((digits for digits in (0, 1, 2) if values["median"] >= 10 ** (3 - digits)), 3)
    median, low, high = (f"{values[name]:,.{digits}f}" for name in ("median", "low", "high"))
    others = {name: value for name, value in values.items() if name not in spread([0.0])}
    return ", ".join([f"{median} ({low} to {high})", *_lines(others, " ")])


def lines_of(document: Mapping[str, Any]) -> list[str]:
    """Returns a document of figures as lines of text.

    Example:
        >>> lines_of({"ours": {"median": 2.0, "low": 1.0, "high": 4.0}, "of": {"a_b": [1, 2]}})
        ['ours: 2.000 (1.000 to 4.000)', 'of a b: 1, 2']
    """
    return list(_lines(document, ": "))


def _lines(document: Mapping[str, Any], separator: str, prefix: str = "") -> Iterator[str]:
    for name, value in document.items():
        label = f"{prefix}{name}".replace("_", " ")
        if isinstance(value, Mapping) and "median" in value:
            yield f"{label}{separator}{show(value)}"
        elif isinstance(value, Mapping):
            yield from _lines(value, separator, f"{label} ")
        else:
            values = value if isinstance(value, list | tuple) else [value]
            told = [f"{one:.4g}" if isinstance(one, float) else str(one) for one in values]
            yield f"{label}{separator}{', '.join(told)}"


def tell(document: Mapping[str, Any], as_json: bool) -> None:
    """Prints a document of figures, either as JSON or as lines of text."""
    print(json.dumps(document) if as_json else "\n".join(lines_of(document)))


def same(what: str, ours: Any, peer: Any) -> None:
    """Exits if the two sides do not do the same work."""
    if ours != peer:
        sys.exit(f"the sides disagree on {what}: ours {ours}, the peer's {peer}")
