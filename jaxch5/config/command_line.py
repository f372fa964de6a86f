"""Reads the words of a command line as settings, and formats a readable `--help`."""

from __future__ import annotations

import difflib
import inspect
import json
import textwrap
from argparse import Action, ArgumentParser, HelpFormatter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict, SettingsError

from jaxch5.config.settings import SOURCES, Config, idle_in
from jaxch5.config.toml import deep_update, flat, known_keys, without
from jaxch5.config.uses import USES, Use
from jaxch5.errors import ConfigError

# Alternative names of options.
ALIASES = {"--data.sampling": "--data.sampler", "--metrics": "--fit.metrics"}

# Maximum length of a description in `--help`, about two lines.
BRIEF = 100
# Settings that are given as one word, although their type includes a tuple.
ONE_WORD = ("data.size",)


class Help(HelpFormatter):
    """Formats `--help` with a short usage line and paragraphs, and omits defaults that are None."""

    def add_usage(
        self, usage: str | None, actions: Iterable[Action], groups: Any, prefix: str | None = None
    ) -> None:
        # For intermixed options and arguments, argparse passes a usage that is already formatted.
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

    # Whether descriptions are cut short.
    brief = False

    def _get_help_string(self, action: Action) -> str:
        text = (action.help or "").removesuffix(" (default: None)")
        if not self.brief:
            return text
        # The first clause says what the setting is; the last often names the default for your own
        # pictures.
        first, *others = text.split("; ")
        text = "; ".join([first, *["..."] * (len(others) > 1), *others[-1:]])
        said, default, value = text.partition(" (default:")
        return textwrap.shorten(said, BRIEF, placeholder=" ...") + default + value


def parser_of(options: type[BaseModel], prog: str) -> CliSettingsSource:
    """Makes a reader of command lines; its `root_parser` knows every option."""

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
        """Takes each word of a `list[str]` literally: file names may contain commas and quotes."""

        def _metavar_format(self, obj: Any) -> str:
            name = super()._metavar_format(obj).replace("{Path,Address}", "Path")
            name = name.replace("{int,tuple[int,int]}", "size")
            # A set of words of which others may be added is shown like any other set.
            name = name.replace("{{", "{").replace("},str}", "}")
            return name.removeprefix("tuple[").removesuffix("]")

        def _merge_parsed_list(self, parsed_list: list[str], field_name: str) -> str:
            field = options.model_fields.get(field_name)
            if field is not None and field.annotation == list[str]:
                return json.dumps(parsed_list)
            # If a setting that takes one word is given twice, the last word counts, as elsewhere.
            if field_name in ONE_WORD:
                return json.dumps(parsed_list[-1])
            return super()._merge_parsed_list(parsed_list, field_name)

    # Options may come between arguments, as in other programs.
    intermixed = ArgumentParser.parse_intermixed_args
    return Words(CommandLine, parse_args_method=intermixed, formatter_class=Help)


def command_line(options: type[BaseModel], argv: Sequence[str], prog: str) -> dict[str, Any]:
    """Returns the values on a command line, nested as in the configuration but not yet validated.

    Args:
        options: Settings and options of the command.
        argv: Words of the command line.
        prog: Command as it is typed; its last word is the command's name.

    Raises:
        ConfigError: A word is not understood, or names a setting that the command does not read.
        SystemExit: Help was requested, and has been printed.
    """
    use = USES.get(prog.rpartition(" ")[2], Use())
    source = parser_of(options, prog)
    if {"-h", "--help", "--help-all"}.intersection(argv):
        print(_help(source.root_parser, use, "--help-all" in argv), end="")
        raise SystemExit(0)
    try:
        given = source(args=[_own_name(word) for word in argv])()
    except SettingsError as error:
        raise ConfigError(_usage(str(error), options)) from None
    for key in flat(given):
        if _is_setting(key) and not use.of(key):
            raise ConfigError(f"{key}: {prog} does not use it; leave it out")
    return given


def options_read(options: type[BaseModel], prog: str) -> dict[str, list[str]]:
    """Returns the options that a command takes, each with its possible values if they are few.

    Args:
        options: Settings and options of the command.
        prog: Command as it is typed.
    """
    use = USES.get(prog.rpartition(" ")[2], Use())
    return {
        name: str(action.metavar)[1:-1].split(",") if "{" in str(action.metavar) else []
        for action in parser_of(options, prog).root_parser._actions
        for name in action.option_strings
        if not _is_setting(action.dest) or use.of(action.dest)
    }


def _is_setting(key: str) -> bool:
    return "." in key or key in Config.model_fields


def _help(parser: ArgumentParser, use: Use, everything: bool) -> str:
    """Returns the text of `--help`, with the command's own options first, or of `--help-all`."""

    def own(action: Action) -> bool:
        return not _is_setting(action.dest) and action.dest not in ("print_config", "json", "debug")

    groups = [
        (group.title, [one for one in group._group_actions if one.dest != "help"])
        for group in parser._action_groups
    ]
    if not everything:
        by_name = {one.dest: one for one in parser._actions}
        arguments, (title, options) = groups[:2]
        groups = [arguments, (title, [*filter(own, options), *(by_name[key] for key in use.often)])]
    formatter = Help(parser.prog)
    formatter.brief = not everything
    formatter.add_usage(None, parser._actions, [])
    formatter.add_text(parser.description)
    for title, actions in groups:
        formatter.start_section(title)
        formatter.add_arguments(
            one for one in actions if not _is_setting(one.dest) or use.of(one.dest)
        )
        formatter.end_section()
    formatter.add_text("" if everything else "--help-all shows all options.")
    return formatter.format_help()


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
        return f"{word}: needs the name of an option, as in --data.path {word}; see --help-all"
    name = word.split("=")[0]
    known = ["--" + key.replace("_", "-") for key in known_keys(options)]
    # If the dashes were compared too, all short names would look alike.
    bare = [key.lstrip("-") for key in known]
    close = difflib.get_close_matches(name.replace("_", "-").lstrip("-"), bare, n=1)
    return f"{name}: no such option; " + (
        f"did you mean --{close[0]}?" if close else "see --help-all"
    )


def shipped(file: Path) -> Path:
    """Returns the file if it exists, or else the one of this name that comes with jaxch5.

    Raises:
        ConfigError: Neither of them exists.

    Example:
        >>> shipped(Path("digits")).name
        'digits.toml'
    """
    if file.exists():
        return file
    package = Path(__file__).parents[1]
    # In a wheel, the configurations are inside the package; in a working copy, they are beside it.
    inside = package / "configs"
    known = sorted((inside if inside.is_dir() else package.parent / "configs").glob("*.toml"))
    for one in known:
        if str(file) in (one.stem, one.name):
            return one
    names = ", ".join(one.stem for one in known)
    raise ConfigError(f"{file}: there is no such configuration file; jaxch5 comes with {names}")


def not_overruled(
    on_file: dict[str, Any], given: dict[str, Any], recorded: bool
) -> tuple[dict[str, Any], list[str]]:
    """Returns a file's values without those that have no effect because of the command line.

    A source on the command line replaces the one in the file. If the command line chooses another
    schedule, the settings that belong to the file's schedule are left out.

    Args:
        on_file: Values of the file.
        given: Values of the command line.
        recorded: Whether the file is a run's own, which may be older than the current rules.

    Returns:
        The values, and a line for each setting that is left out; no lines for a run's own file,
        which has values for all settings.
    """
    if any(name in given.get("data", {}) for name in SOURCES):
        on_file = without(on_file, [f"data.{name}" for name in SOURCES])
    pointless = idle_in(deep_update(on_file, given))
    overruled = pointless.keys() - flat(given).keys()
    if recorded:
        return without(on_file, overruled), []
    overruled -= idle_in(on_file).keys()
    return without(on_file, overruled), [pointless[key] for key in sorted(overruled)]
