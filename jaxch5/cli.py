"""What the commands share: options from files and the command line, and how a command ends."""

from __future__ import annotations

import difflib
import inspect
import io
import json
import os
import sys
import textwrap
import traceback
from argparse import Action, ArgumentParser, HelpFormatter
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import Field, PrivateAttr, ValidationError
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict, SettingsError
from rich.console import Console

from jaxch5.config import Config
from jaxch5.errors import ConfigError, Jaxch5Error
from jaxch5.files import DRAWN_BY, write_file
from jaxch5.libraries import empty_is_unset, silent
from jaxch5.settings import deep_update, explain, known_keys, read_toml, to_toml
from jaxch5.text import print_line, printable
from jaxch5.training.interrupts import StopAtOnce, Terminated, termination_raised

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES = (".png", ".pdf", ".svg")
FIGURE_DPI = 120
# Of a list for people.
SHOWN = 20
# Key of a command's result that is true where it did its work and the answer is a failure.
FAILED = "failed"


class Options(Config):
    """The configuration, and what every command takes beside it."""

    config: Path | None = Field(
        None, description="TOML file with settings, or the name of one that comes with jaxch5"
    )
    print_config: bool = Field(False, description="print the complete configuration and end")
    json_output: bool = Field(
        False, alias="json", description="print one JSON document on standard output, nothing else"
    )
    debug: bool = Field(False, description="show the traceback of an error")

    # What was said, without the defaults.
    _given: dict[str, Any] = PrivateAttr(default_factory=dict)

    @classmethod
    def settings_file(cls, given: dict[str, Any]) -> Path | None:
        """The TOML file under the values that the command line names, which win."""
        return Path(given["config"]) if "config" in given else None

    def console(self, quiet: bool = False) -> Console:
        """Where people read: standard output, which with `--json` belongs to the document."""
        return Console(file=sys.stderr if self.json_output else sys.stdout, quiet=quiet)

    def settings(self) -> Config:
        """The configuration alone."""
        return Config.model_validate({name: getattr(self, name) for name in Config.model_fields})

    def settings_with(self, **changes: Any) -> Config:
        """The configuration with changes, on which the defaults of other settings may depend."""
        given = {name: self._given[name] for name in Config.model_fields if name in self._given}
        return Config.model_validate(deep_update(given, changes))

    def settings_with_weights(self, say: Callable[[str], None]) -> Config:
        """The configuration with "auto" weights decided, so that it means the same tomorrow."""
        config = self.settings()
        if config.model.weights != "auto":
            return config
        from jaxch5.training.transfer import available

        weights, reason = available(config.model.arch)
        if reason:
            say(reason)
        return self.settings_with(model={"weights": weights})


OptionsT = TypeVar("OptionsT", bound=Options)


def parse(options: type[OptionsT], argv: Sequence[str], prog: str) -> OptionsT:
    """Options from the file that `--config` names, overridden by the rest of the command line.

    Raises:
        ConfigError: one line for the first key that is unknown or has a value that is not allowed.
        SystemExit: after `--help`.
    """
    given = command_line(options, argv, prog)
    file = options.settings_file(given)
    values = deep_update(read_toml(shipped(file)), given) if file else given
    try:
        parsed = options.model_validate(values)
    except ValidationError as error:
        key = ".".join(str(part) for part in error.errors()[0]["loc"])
        from_file = file and not _has(given, key)
        line = explain(error, known_keys(Config if from_file else options))
        raise ConfigError(f"{file}: {line}" if from_file else line) from None
    parsed._given = values
    return parsed


def shipped(file: Path) -> Path:
    """The configuration file itself, or the one of this name that comes with jaxch5.

    Raises:
        ConfigError: there is neither.

    Example:
        >>> shipped(Path("digits")).name
        'digits.toml'
    """
    if file.exists():
        return file
    package = Path(__file__).parent
    # A wheel has them inside of the package, a working copy beside it.
    inside = package / "configs"
    known = sorted((inside if inside.is_dir() else package.parent / "configs").glob("*.toml"))
    for one in known:
        if str(file) in (one.stem, one.name):
            return one
    names = ", ".join(one.stem for one in known)
    raise ConfigError(f"{file}: there is no such configuration file; with jaxch5 come {names}")


class Help(HelpFormatter):
    """`--help` without a usage of sixty options, with whole paragraphs, and no default of None."""

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


def command_line(options: type[Options], argv: Sequence[str], prog: str) -> dict[str, Any]:
    """The values that the command line names, nested as in the configuration, as strings."""

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
            return name.removeprefix("tuple[").removesuffix("]")

        def _merge_parsed_list(self, parsed_list: list[str], field_name: str) -> str:
            field = options.model_fields.get(field_name)
            if field is not None and field.annotation == list[str]:
                return json.dumps(parsed_list)
            return super()._merge_parsed_list(parsed_list, field_name)

    try:
        # Options may stand between arguments, as everywhere.
        return Words(
            CommandLine,
            cli_parse_args=list(argv),
            parse_args_method=ArgumentParser.parse_intermixed_args,
            formatter_class=Help,
        )()
    except SettingsError as error:
        raise ConfigError(_usage(str(error), options)) from None


def _usage(message: str, options: type[Options]) -> str:
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


def as_path(argument: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A pydantic validator: the argument of this name, where it is given, is `data.path`."""

    def validate(values: dict[str, Any]) -> dict[str, Any]:
        if values.get(argument) is None:
            return values
        return deep_update(values, {"data": {"path": values[argument]}})

    return validate


def drawable(out: Path) -> Path:
    """A pydantic validator: the name of a file that a figure can be written to."""
    if out.suffix.lower() not in FIGURES:
        raise ValueError(f"out = {out}: should end in {', '.join(FIGURES)}")
    # Found after minutes of training otherwise.
    if not out.parent.is_dir():
        raise ValueError(f"out = {out}: there is no folder {out.parent}")
    return out


def save_figure(figure: Figure, out: Path) -> None:
    """Writes a figure, which says of itself that it is no data, in one piece.

    Raises:
        CheckpointError: it cannot be written.
    """
    drawn = io.BytesIO()
    form = out.suffix[1:].lower()
    metadata = {"Software" if form == "png" else "Creator": DRAWN_BY}
    figure.savefig(drawn, format=form, dpi=FIGURE_DPI, metadata=metadata)
    write_file(out, drawn.getvalue())


def print_list(console: Console, headline: str, entries: Sequence[str]) -> None:
    """Prints how many entries there are and the first of them; without any, nothing."""
    if not entries:
        return
    print_line(console, f"{len(entries):,} {headline}:")
    for entry in entries[:SHOWN]:
        print_line(console, f"  {entry}")
    if len(entries) > SHOWN:
        print_line(console, f"  and {len(entries) - SHOWN:,} more (--json lists all)")


def _has(values: dict[str, Any], key: str) -> bool:
    for part in key.split("."):
        if not isinstance(values, dict) or part not in values:
            return False
        values = values[part]
    return True


def run(
    command: Callable[[OptionsT], dict[str, Any]],
    options: type[OptionsT],
    prog: str,
    argv: Sequence[str] | None = None,
) -> int:
    """Runs a command: parses, calls, prints its result as JSON where asked, gives its exit status.

    0 is done; 1 failed; 2 bad usage or configuration; 130 interrupted, 143 terminated. What it
    changes in its process is put back: a notebook that calls it keeps its handlers and logs.
    """
    argv = sys.argv[1:] if argv is None else argv
    debug = "--debug" in argv
    with (
        termination_raised(),
        empty_is_unset(),
        nullcontext() if debug else silent(),
        # None where they are closed: what would be said there is lost, and nothing else.
        redirect_stdout(sys.stdout or io.StringIO()),
        redirect_stderr(sys.stderr or io.StringIO()),
    ):
        return _run(command, options, prog, argv, debug)


def _run(
    command: Callable[[OptionsT], dict[str, Any]],
    options: type[OptionsT],
    prog: str,
    argv: Sequence[str],
    debug: bool,
) -> int:
    failed = False
    try:
        parsed = parse(options, argv, prog)
        if parsed.print_config:
            settings = parsed.settings()
            as_json = json.dumps(settings.model_dump(mode="json", exclude_none=True)) + "\n"
            print(as_json if parsed.json_output else to_toml(settings), end="")
        else:
            result = command(parsed)
            failed = result.pop(FAILED, False)
            # Of several processes that train together, one has it.
            if parsed.json_output and result:
                print(json.dumps(result))
        # What cannot be written should be found here, where it is still one line and a status.
        sys.stdout.flush()
        return int(failed)
    except Jaxch5Error as error:
        return _fail(str(error), error.exit_code, prog, debug)
    except StopAtOnce:
        # Leaving in order would wait for threads that compile or save.
        os._exit(_fail("interrupted", 130, prog, debug))
    except KeyboardInterrupt:
        return _fail("interrupted", 130, prog, debug)
    except Terminated:
        return _fail("terminated", 143, prog, debug)
    except OSError as error:
        return lost_output(error, prog, debug)
    except Exception as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        return _fail(f"{what} (a defect of jaxch5; --debug shows where)", 1, prog, debug)


def lost_output(error: OSError, prog: str, debug: bool = False) -> int:
    """Says what could not be written, or read, unless nobody listens any more; gives the status."""
    try:
        sys.stdout.flush()
    except OSError:
        # The interpreter would try again, and complain, at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return 1
    where = f"{error.filename}: " if error.filename else ""
    return _fail(f"{where}{error.strerror or error}", 1, prog, debug)


def _fail(message: str, status: int, prog: str, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"{prog}: {printable(message)}", file=sys.stderr)
    return status
