"""What a wheel holds beside the package."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Configurations(BuildHookInterface):
    """Puts configs/ into the package, where `--config NAME` finds them.

    A hook, because what the settings include by force goes into an editable installation too, as a
    copy that grows old.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "standard":
            build_data["force_include"]["configs"] = "jaxch5/configs"
