"""Handles what commands share: options from files and the command line, and how a command ends."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pydantic import Field, PrivateAttr, ValidationError
from pydantic_settings import CliPositionalArg
from rich.console import Console

from jaxch5.config.command_line import command_line, not_overruled, shipped
from jaxch5.config.section import idle_settings
from jaxch5.config.settings import Config, check_applies
from jaxch5.config.toml import deep_update, explain, flat, known_keys, read_toml, to_toml, without
from jaxch5.errors import IN_HOOK, ConfigError, Jaxch5Error
from jaxch5.run.tested_size import with_tested_size
from jaxch5.training.interrupts import StopAtOnce, Terminated, caller_decides
from jaxch5.util.address import expanded
from jaxch5.util.files import DRAWN_BY, to_json, write_file
from jaxch5.util.libraries import empty_is_unset, seldom_collected, silent
from jaxch5.util.text import print_line, printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from jaxch5.task import Task

FIGURES = (".png", ".pdf", ".svg")
FIGURE_DPI = 120
# Key in a command's result that is true if the command has done its work, but reports failures.
FAILED = "failed"


class Options(Config):
    """Holds the configuration, and the options that every command has in addition to it."""

    config: Path | None = Field(
        None, description="TOML file with settings, or the name of one that comes with jaxch5"
    )
    print_config: bool = Field(False, description="print the complete configuration and exit")
    json_output: bool = Field(
        False,
        alias="json",
        description="print one JSON document on standard output, and nothing else",
    )
    debug: bool = Field(False, description="show the traceback of an error")

    # Lines about the settings in the file that have no effect because of the command line.
    _overruled: tuple[str, ...] = PrivateAttr(())

    # Name of the positional argument that stands for `data.path`.
    path_argument: ClassVar[str] = ""

    @classmethod
    def settings_file(cls, given: dict[str, Any]) -> Path | None:
        """Returns the TOML file whose values the command line overrides; None if none is given."""
        return expanded(Path(given["config"])) if "config" in given else None

    @property
    def together(self) -> bool:
        """Returns whether several processes run the command together; if so, only one prints."""
        return False

    def print_overruled(self, console: Console) -> None:
        """Prints `_overruled`, the lines about settings in the file that have no effect."""
        for line in self._overruled:
            print_line(console, line)

    def console(self, quiet: bool = False) -> Console:
        """Returns the console for messages: standard output or, with `--json`, standard error."""
        return Console(file=sys.stderr if self.json_output else sys.stdout, quiet=quiet)

    def settings(self) -> Config:
        """Returns the configuration without the command's own options."""
        values = {name: getattr(self, name) for name in Config.model_fields}
        config = Config.model_validate(values)
        config._named = self._named
        return config

    def settings_with(
        self, say: Callable[[str], None], /, always: bool = False, **changes: Any
    ) -> Config:
        """Returns the configuration with changes to some settings and to defaults that they affect.

        Args:
            say: Function that takes a line for each given setting that has no effect after the
                changes, or that the command always replaces.
            always: Whether the command makes these changes whatever it is given; a setting on the
                command line that they replace, or leave without effect, is then an error.
            changes: Changed settings, nested as in the configuration.

        Raises:
            ConfigError: There is such a setting on the command line.
        """
        settings, new = self.settings(), flat(changes) if always else {}
        if named := self._named & new.keys():
            raise ConfigError(f"{min(named)}: this command chooses its value; leave it out")
        config = settings.model_copy(update=changes)
        left_out = idle_settings(config)
        if always and (named := self._named & left_out.keys()):
            raise ConfigError(left_out[min(named)])
        for key, value in flat(settings.given()).items():
            if value != new.get(key, value):
                say(f"{key} = {value}: this command uses {new[key]} instead")
        for line in left_out.values():
            say(f"{line}; it is left out")
        config = Config.model_validate(without(config.given(), left_out))
        config._named = self._named - left_out.keys()
        return config

    def reading(self) -> dict[str, Any]:
        """Returns the decoding settings that were given; they override those of a classifier."""
        return self.data.model_dump(include={"range", "max_pixels"}, exclude_unset=True)

    def architecture(self) -> str | None:
        """Returns the architecture that the command line names; None if it names none."""
        return self.model.arch if "model.arch" in self._named else None

    def task(self) -> Task | None:
        """Returns the task to use instead of a classifier's own; None if the options name none.

        The file of `--config` counts as well, since it is not the classifier's own.

        Raises:
            ConfigError: The task cannot be imported.
        """
        in_file = {f"model.{name}" for name in self.model.model_fields_set if self.config}
        if not {"model.task", "model.threshold"} & (in_file | self._named):
            return None
        from jaxch5.task import task_of

        return task_of(self.model.task, self.model.threshold)

    def settings_with_weights(self, say: Callable[[str], None]) -> Config:
        """Returns the settings, with "auto" weights replaced by what it stands for at present."""
        config = self.settings()
        if config.model.weights != "auto":
            return config
        from jaxch5.run.transfer import available

        weights, reason = available(config.model.arch)
        if reason:
            say(reason)
        return self.settings_with(say, model={"weights": weights})


class RunOptions(Options):
    """Options of a command that takes its settings from a run, if one is given."""

    @classmethod
    def settings_file(cls, given: dict[str, Any]) -> Path | None:
        """Returns the settings file of the run, or that of `--config` if no run is given."""
        if "run" not in given:
            return super().settings_file(given)
        if "config" in given:
            raise ConfigError("--config: cannot be combined with a run, which has its own settings")
        return cls.settings_of_run(Path(given["run"]))

    @classmethod
    def settings_of_run(cls, path: Path) -> Path | None:
        """Returns the file with the settings of a run."""
        from jaxch5.run.directory import open_run

        return open_run(path)[0].config_file


class PicturesOptions(Options):
    """Options of a command that is given a set of pictures."""

    pictures: CliPositionalArg[str | None] = Field(
        None,
        description="folder, archive or CSV file of pictures, the same as --data.path; by default "
        "scikit-learn's digits",
    )

    path_argument: ClassVar[str] = "pictures"


OptionsT = TypeVar("OptionsT", bound=Options)


def parse(options: type[OptionsT], argv: Sequence[str], prog: str) -> OptionsT:
    """Reads options from a configuration or a run; the command line overrides them.

    Raises:
        ConfigError: An option, a value or the settings file is not valid; the message says which.
        SystemExit: Help was requested, and has been printed.
    """
    given = command_line(options, argv, prog)
    if (path := given.pop(options.path_argument, None)) is not None:
        if "path" in given.get("data", {}):
            raise ConfigError(f"{path} and --data.path both name the pictures; give only one")
        given = deep_update(given, {"data": {"path": path}})
    file = options.settings_file(given)
    on_file = read_toml(shipped(file)) if file else {}
    on_file, given = with_tested_size(on_file, given, prog)
    on_file, overruled = not_overruled(on_file, given, recorded="config" not in given)
    values = deep_update(on_file, given)
    try:
        parsed = options.model_validate(values)
    except ValidationError as error:
        # If settings contradict each other, the message begins with the one to change.
        keys = {".".join(map(str, error.errors()[0]["loc"])), explain(error, []).split()[0]}
        from_file = file and not keys & flat(given).keys()
        line = explain(error, known_keys(Config if from_file else options))
        raise ConfigError(f"{file}: {line}" if from_file else line) from None
    parsed._named = frozenset(flat(given))
    parsed._overruled = tuple(f"{file}: {line}; this setting is ignored" for line in overruled)
    check_applies(parsed)
    return parsed


def drawable(out: Path) -> Path:
    """Validates, for pydantic, the name of a file that a figure can be written to."""
    if out.suffix.lower() not in FIGURES:
        raise ValueError(f"out = {out}: should end in {', '.join(FIGURES)}")
    # Without this check, a missing folder would be noticed only after minutes of training.
    if not out.parent.is_dir():
        raise ValueError(f"out = {out}: there is no folder {out.parent}")
    if not os.access(out.parent, os.W_OK):
        folder = out.parent.absolute()
        raise ValueError(f"out = {out}: {folder} cannot be written to; name a file elsewhere")
    return out


def save_figure(figure: Figure, out: Path) -> None:
    """Writes a figure atomically, and marks it so that no command takes it for a picture.

    Raises:
        CheckpointError: The file cannot be written.
    """
    drawn = io.BytesIO()
    form = out.suffix[1:].lower()
    metadata = {"Software" if form == "png" else "Creator": DRAWN_BY}
    figure.savefig(drawn, format=form, dpi=FIGURE_DPI, metadata=metadata)
    write_file(out, drawn.getvalue())


def run(
    command: Callable[[OptionsT], dict[str, Any]],
    options: type[OptionsT],
    prog: str,
    argv: Sequence[str] | None = None,
) -> int:
    """Runs a command with options from `argv` and files, and returns its exit status.

    0 means success, 1 a failure, 2 wrong usage or configuration, 130 an interruption, and 143 a
    termination. Changes to the process are undone: a notebook that runs a command keeps its signal
    handlers and its logs.
    """
    argv = sys.argv[1:] if argv is None else argv
    debug = "--debug" in argv
    with (
        seldom_collected(),
        caller_decides(),
        empty_is_unset(),
        nullcontext() if debug else silent(),
        # A closed stream is None; only what would be printed to it is lost.
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
            # The standard output is the configuration.
            parsed.print_overruled(Console(stderr=True))
            settings = parsed.settings()
            as_json = to_json(settings.model_dump(mode="json", exclude_none=True)) + "\n"
            print(as_json if parsed.json_output else to_toml(settings), end="")
        else:
            if not parsed.together:
                parsed.print_overruled(parsed.console())
            result = command(parsed)
            failed = result.pop(FAILED, False)
            # Of several processes that train together, only the first has a result.
            if parsed.json_output and result:
                print(to_json(result))
        # A failed write should show up here, where it can still become an error line and a status.
        sys.stdout.flush()
        return int(failed)
    except StopAtOnce:
        # An orderly exit would wait for threads that compile or save.
        os._exit(_fail("interrupted", 130, prog, debug))
    except KeyboardInterrupt:
        return _fail("interrupted", 130, prog, debug)
    except Terminated:
        return _fail("terminated", 143, prog, debug)
    except Exception as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        # A hook may raise an error of any kind, even one that would otherwise need no traceback.
        if hook := next((n for n in getattr(error, "__notes__", ()) if n.startswith(IN_HOOK)), ""):
            _flush_or_close()
            return _fail(f"{what} ({hook})", 1, prog, debug=True)
        if isinstance(error, Jaxch5Error):
            return _fail(str(error), error.exit_code, prog, debug)
        if isinstance(error, OSError):
            return lost_output(error, prog, debug)
        return _fail(f"{what} (a defect of jaxch5; --debug shows where)", 1, prog, debug)


def _flush_or_close() -> None:
    """Flushes standard output, or closes it if nobody reads it any more."""
    try:
        sys.stdout.flush()
    except OSError:
        # Otherwise the interpreter would try to write again at exit, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def lost_output(error: OSError, prog: str, debug: bool = False) -> int:
    """Reports what could not be read or written, unless the output's reader is gone; returns 1."""
    _flush_or_close()
    if isinstance(error, BrokenPipeError):
        return 1
    where = f"{error.filename}: " if error.filename else ""
    return _fail(f"{where}{error.strerror or error}", 1, prog, debug)


def _fail(message: str, status: int, prog: str, debug: bool = False) -> int:
    if debug:
        traceback.print_exc()
    print(f"{prog}: {printable(message)}", file=sys.stderr)
    return status
