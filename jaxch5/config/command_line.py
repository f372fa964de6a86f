"""The command line: its words as settings, and a `--help` that can be read."""

from __future__ import annotations

import difflib
import inspect
import json
import textwrap
from argparse import Action, ArgumentParser, HelpFormatter
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict, SettingsError

from jaxch5.config.toml import known_keys
from jaxch5.errors import ConfigError

# Other names of options.
ALIASES = {"--data.sampling": "--data.sampler", "--metrics": "--fit.metrics"}

# Settings that are one word though their type has a tuple.
ONE_WORD = ("data.size",)


class Help(HelpFormatter):
    """Formats `--help`: no usage of sixty options, paragraphs as such, and no default of None."""

    def add_usage(
        self, usage: str | None, actions: Iterable[Action], groups: Any, prefix: str | None = None
    ) -> None:
        # Arguments that are parsed in two passes have been put into a usage before.
        if usage is None:
            arguments = [
                self._format_args(action, action.dest)
                for action in actions
                if not action.option_strings
            ]
            usage = " ".join(["%(prog)s [options]", *arguments])
        super().add_usage(usage, actions, groups, prefix)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(
            textwrap.fill(" ".join(part.split()), width, initial_indent=indent)
            for part in text.split("\n\n")
        )

    def _get_help_string(self, action: Action) -> str:
        return (action.help or "").removesuffix(" (default: None)")


def command_line(options: type[BaseModel], argv: Sequence[str], prog: str) -> dict[str, Any]:
    """Reads the values on a command line: strings, nested as in the configuration."""

    class CommandLine(BaseSettings, options):  # type: ignore[misc, valid-type]
        __doc__ = inspect.getdoc(options)
        model_config = SettingsConfigDict(
            cli_prog_name=prog,
            cli_kebab_case=True,
            cli_implicit_flags=True,
            cli_avoid_json=True,
            cli_hide_none_type=True,
            cli_exit_on_error=False,
        )

    class Words(CliSettingsSource):
        """Takes each word of a list as it is: in file names, commas and quotes mean nothing."""

        def _metavar_format(self, obj: Any) -> str:
            name = super()._metavar_format(obj).replace("{Path,Address}", "Path")
            name = name.replace("{int,tuple[int,int]}", "size")
            return name.removeprefix("tuple[").removesuffix("]")

        def _merge_parsed_list(self, parsed_list: list[str], field_name: str) -> str:
            field = options.model_fields.get(field_name)
            if field is not None and field.annotation == list[str]:
                return json.dumps(parsed_list)
            # Of a setting that is one number or several, the last word counts, as of any other.
            if field_name in ONE_WORD:
                return json.dumps(parsed_list[-1])
            return super()._merge_parsed_list(parsed_list, field_name)

    try:
        # Options may stand between arguments, as everywhere.
        return Words(
            CommandLine,
            cli_parse_args=[_own_name(word) for word in argv],
            parse_args_method=ArgumentParser.parse_intermixed_args,
            formatter_class=Help,
        )()
    except SettingsError as error:
        raise ConfigError(_usage(str(error), options)) from None


def _own_name(word: str) -> str:
    name, equals, value = word.partition("=")
    return ALIASES.get(name, name) + equals + value


def _usage(message: str, options: type[BaseModel]) -> str:
    message = message.removeprefix("error parsing CLI: ")
    prefix = "unrecognized arguments: "
    if not message.startswith(prefix):
        return message
    word = message.removeprefix(prefix).split()[0]
    if not word.startswith("-"):
        return f"{word}: arguments are options, such as --data.path {word}; --help lists them"
    name = word.split("=")[0]
    known = ["--" + key.replace("_", "-") for key in known_keys(options)]
    # Dashes alone make short names look alike.
    bare = [key.lstrip("-") for key in known]
    close = difflib.get_close_matches(name.replace("_", "-").lstrip("-"), bare, n=1)
    return f"{name}: no such option; " + (f"did you mean --{close[0]}?" if close else "see --help")
