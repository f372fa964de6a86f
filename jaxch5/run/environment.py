"""Describes the environment of a run: software versions, machine and device."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import jax

from jaxch5 import __version__

PACKAGES = ("jax", "jaxlib", "flax", "optax", "grain", "dm-pix", "orbax-checkpoint")


def versions() -> dict[str, str]:
    """Returns the versions of jaxch5 and of some packages that affect its results."""
    return {"jaxch5": __version__} | {name: version(name) for name in PACKAGES}


def environment() -> dict[str, Any]:
    """Returns, as JSON values, what may make two runs with the same configuration differ.

    Example:
        >>> sorted(environment())
        ['device', 'devices', 'machine', 'python', 'time', 'versions']
    """
    device = jax.devices()[0]
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": platform.platform(),
        "device": device.device_kind if device.platform != "cpu" else "cpu",
        "devices": jax.device_count(),
        "versions": versions(),
    }
