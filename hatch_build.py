"""Adds the configurations to the package when a wheel is built."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Configurations(BuildHookInterface):
    """Puts configs/ into the package, where `--config NAME` finds them.

    This is a hook, because a `force-include` in pyproject.toml would also copy the files into an
    editable installation, where the copies would become outdated.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "standard":
            build_data["force_include"]["configs"] = "jaxch5/configs"
