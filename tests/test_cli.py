"""Options come from a file and the command line; failed commands end with a status and a line."""

import gc
import importlib
import json
import logging
import os
import re
import resource
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from pydantic import Field
from pydantic_settings import CliPositionalArg
from pydantic_settings.sources.types import _CliPositionalArg

from jaxch5.__main__ import commands
from jaxch5.cli import Options, PicturesOptions, parse, run, save_figure
from jaxch5.config.settings import Config
from jaxch5.config.toml import known_keys
from jaxch5.config.uses import USES
from jaxch5.errors import IN_HOOK, CheckpointError, ConfigError, DataError, TrainingError

PROG = "jaxch5 test"


def options_of(command):
    """Returns the class of a command's options."""
    module = importlib.import_module(f"jaxch5.{command}")
    kinds = (one for one in vars(module).values() if isinstance(one, type))
    return next(one for one in kinds if one.__module__ == module.__name__)


def is_option(kind, name):
    """Returns whether a field is an option rather than a positional argument."""
    return _CliPositionalArg not in kind.model_fields[name].metadata


def arguments_of(command, key):
    """Returns arguments that give a setting a value, after the positional ones a command needs."""
    value = reduce(getattr, key.split("."), Config())
    option = "--" + key.replace("_", "-")
    needed = {"predict": ["RUN", "1.png"], "pack": ["SOURCE", "OUT"]}.get(command, ["RUN"])
    return [*needed, option, *["1"] * (not isinstance(value, bool))]


def options(*argv):
    return parse(Options, argv, PROG)


def test_the_command_line_wins_over_the_file_and_the_file_over_the_defaults(tmp_path):
    file = tmp_path / "a.toml"
    file.write_text("seed = 3\n[fit]\nepochs = 7\n")
    config = options("--config", str(file), "--fit.epochs", "9").settings()
    assert (config.seed, config.fit.epochs, config.fit.lr) == (3, 9, 2e-3)


def test_every_kind_of_value_can_be_given():
    config = options(
        "--data.path=/photos", "--data.batch-size", "8", "--no-augment.do-flip",
        "--data.stratify", "--fit.moms", "0.9,0.8,0.9", "--fit.lr", "1e-2", "--model.weights=none",
    ).settings()  # fmt: skip
    assert config.data.path == Path("/photos")
    assert config.data.batch_size == 8
    assert config.data.stratify
    assert not config.augment.do_flip
    assert config.fit.moms == (0.9, 0.8, 0.9)
    assert config.fit.lr == 0.01


def test_the_environment_is_not_a_source_of_settings(monkeypatch):
    monkeypatch.setenv("SEED", "7")
    monkeypatch.setenv("FIT__EPOCHS", "7")
    assert options().settings().seed == 0


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--data.presze", "3"], "--data.presze: no such option; did you mean --data.presize?"),
        (["--data.batch_size=3"], "--data.batch_size: no such option; did you mean --data.batch-"),
        (["--zzz"], "--zzz: no such option; see --help"),
        (["--nonsense"], "--nonsense: no such option; see --help"),
        (["--fit.moms", "0.9,0.8"], "fit.moms = 0.9,0.8: too few values (2)"),
        (["photos"], "photos: needs the name of an option, as in --data.path photos"),
        (["--fit.epochs"], "--fit.epochs: expected one argument"),
        (["--fit.epochs", "two"], "fit.epochs = two: should be a valid integer"),
        (["--fit.epochs", "0"], "fit.epochs = 0: should be greater than or equal to 1"),
        (["--model.arch", "vgg"], "model.arch = vgg: should be resnet18"),
        (["--config", "nowhere.toml"], "nowhere.toml: there is no such configuration file"),
    ],
)
def test_a_bad_option_ends_with_status_2_and_one_line(argv, line, capsys):
    assert run(lambda options: {}, Options, PROG, argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert line in err
    assert err.count("\n") == 1


def test_a_bad_value_is_blamed_on_the_file_that_has_it(tmp_path):
    file = tmp_path / "a.toml"
    file.write_text("[fit]\nepochs = 0\n")
    with pytest.raises(ConfigError, match=r"a\.toml: fit\.epochs = 0"):
        options("--config", str(file))
    with pytest.raises(ConfigError, match=r"^fit\.epochs = -1"):
        options("--config", str(file), "--fit.epochs", "-1")


def test_help_all_names_every_setting_with_its_default(capsys):
    with pytest.raises(SystemExit) as ended:
        options("--help-all")
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--data.batch-size int pictures per step; 32 for your own pictures (default:" in text
    assert "--augment.max-rotate float largest rotation, in degrees (default: 10.0)" in text


class WithArguments(Options):
    """Do something.

    Which takes a second paragraph that is so long that a terminal of eighty columns has no room.
    """

    run: CliPositionalArg[Path] = Field(description="run directory")
    others: CliPositionalArg[list[str]] = Field(description="others")


def test_help_begins_with_a_usage_of_a_line(capsys, monkeypatch):
    """The usage does not list all options; no line is wider than the terminal or says None."""
    monkeypatch.setenv("COLUMNS", "80")
    for kind, arguments in ((Options, ""), (WithArguments, " RUN OTHERS [OTHERS ...]")):
        with pytest.raises(SystemExit):
            parse(kind, ["--help-all"], PROG)
        lines = capsys.readouterr().out.splitlines()
        assert lines[:2] == [f"usage: {PROG} [options]{arguments}", ""]
        assert max(map(len, lines)) <= 80
        assert not any("None" in line or "{Path,Address}" in line for line in lines)


@pytest.mark.parametrize("command", commands())
def test_help_fits_a_screen_and_names_what_is_the_commands_own(command, capsys, monkeypatch):
    """`--help` fits 40 lines of 80 columns and names all of the command's own options.

    `--help-all` lists these options too, and exactly the settings that the command reads.
    """
    monkeypatch.setenv("COLUMNS", "80")
    kind, printed = options_of(command), {}
    for word in ("--help", "--help-all"):
        with pytest.raises(SystemExit) as ended:
            parse(kind, [word], f"jaxch5 {command}")
        assert ended.value.code == 0
        printed[word] = capsys.readouterr().out
    lines = printed["--help"].splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    assert lines[-1] == "--help-all shows all options."
    named = {word: set(re.findall(r"^  --([\w.-]+)", printed[word], re.M)) for word in printed}
    own = kind.model_fields.keys() - Options.model_fields.keys()
    options = {name.replace("_", "-") for name in own if is_option(kind, name)}
    assert options <= named["--help"] <= named["--help-all"]
    read = {key.replace("_", "-") for key in known_keys(Config) if USES[command].of(key)}
    assert named["--help-all"] == read | options | {"config", "print-config", "json", "debug"}


@pytest.mark.parametrize("command", commands())
def test_a_setting_that_a_command_does_not_read_is_refused(command):
    for key in known_keys(Config):
        if not USES[command].of(key):
            with pytest.raises(ConfigError, match=f"^{key}: jaxch5 {command} does not use it"):
                parse(options_of(command), arguments_of(command, key), f"jaxch5 {command}")


def test_what_a_command_reads_is_made_of_settings():
    known = [*known_keys(Config), *(f"{name}." for name in Config.model_fields), ""]
    for use in USES.values():
        assert {one.removeprefix("-") for one in use.reads} <= {*known}
        assert all(map(use.of, use.often))


def test_a_place_may_stand_alone(tmp_path):
    """A place alone means --data.path and overrides the file's data set; giving both is refused."""
    file = tmp_path / "a.toml"
    file.write_text("[data]\ntfds = 'pets'\n")
    config = parse(PicturesOptions, ["photos", "--config", str(file)], PROG).settings()
    assert (config.data.path, config.data.tfds) == (Path("photos").absolute(), None)
    assert config == parse(PicturesOptions, ["--data.path", "photos"], PROG).settings()
    with pytest.raises(ConfigError, match=r"^photos and --data\.path both name the pictures"):
        parse(PicturesOptions, ["photos", "--data.path", "photos"], PROG)


def test_a_configuration_that_comes_along_is_found_by_its_name(tmp_path, monkeypatch):
    """`--config` accepts the name of a configuration that comes with jaxch5.

    A file of that name in the working directory takes precedence.
    """
    monkeypatch.chdir(tmp_path)
    for name in ("pets_resnet50", "pets_resnet50.toml"):
        assert options("--config", name).settings().data.tfds == "oxford_iiit_pet"
    Path("pets_resnet50").write_text("[data]\ntfds = 'mine'\n")
    assert options("--config", "pets_resnet50").settings().data.tfds == "mine"
    with pytest.raises(ConfigError, match=r"^pets: .*jaxch5 comes with digits, "):
        options("--config", "pets")


def test_print_config_prints_a_file_that_can_be_used(capsys, tmp_path):
    assert run(lambda options: {}, Options, PROG, ["--print-config", "--seed", "5"]) == 0
    file = tmp_path / "printed.toml"
    file.write_text(capsys.readouterr().out)
    assert options("--config", str(file)).settings() == options("--seed", "5").settings()


def test_print_config_is_a_document_where_one_is_asked_for(capsys):
    assert run(lambda options: {}, Options, PROG, ["--print-config", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fit"]["epochs"] == 5


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_what_cannot_be_printed_is_one_line(capsys, monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert run(lambda options: {}, Options, PROG, ["--print-config"]) == 1
    assert capsys.readouterr().err == f"{PROG}: No space left on device\n"


def test_a_command_runs_where_nobody_listens(monkeypatch):
    """Python sets sys.stdout and sys.stderr to None if the parent process has closed them."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert run(lambda options: {"accuracy": 1.0}, Options, PROG, ["--json"]) == 0
    assert run(fail(DataError("x")), Options, PROG, []) == 1


def test_json_prints_the_result_and_nothing_else(capsys):
    assert run(lambda options: {"accuracy": 1.0}, Options, PROG, ["--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"accuracy": 1.0}


def fail(error):
    def command(options):
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (DataError("x.jpg: cannot be read"), 1, "x.jpg: cannot be read"),
        (ConfigError("data.path: is missing"), 2, "data.path: is missing"),
        (OSError(28, "No space left on device", "/runs"), 1, "/runs: No space left on device"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ValueError("one\ntwo"), 1, "ValueError: one (a defect of jaxch5"),
    ],
)
def test_an_error_is_one_line_and_a_status(error, status, line, capsys):
    assert run(fail(error), Options, PROG, []) == status
    err = capsys.readouterr().err
    assert err.startswith(f"{PROG}: {line}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no such dashboard"),
        ConnectionError("no such dashboard"),
        FileNotFoundError(2, "No such file or directory", "notes/log.txt"),
        BrokenPipeError(32, "Broken pipe"),
        TrainingError("fit: cannot be called here"),
    ],
)
def test_an_error_of_a_hook_is_never_taken_for_another(error, capsys):
    """Whatever its type, the error has a traceback and a line that names the hook."""
    error.add_note(f"{IN_HOOK} tell")
    assert run(fail(error), Options, PROG, []) == 1
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    last = f"{PROG}: {type(error).__name__}: {error} (raised in the hook tell)"
    assert err.splitlines()[-1] == last


def test_debug_shows_the_traceback(capsys):
    assert run(fail(DataError("x")), Options, PROG, ["--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_sigterm_ends_with_status_143(capsys, raise_signal):
    assert run(lambda options: raise_signal(signal.SIGTERM), Options, PROG, []) == 143


def test_an_interrupt_at_any_line_ends_with_status_130(tmp_path):
    """The status is 130 even within `exec`, which dataclasses use (`caller_decides`)."""
    (tmp_path / "interrupted.py").write_text(
        "import sys\n"
        "from jaxch5.cli import Options, run\n"
        "sys.exit(run(lambda options: exec('raise KeyboardInterrupt'), Options, 'interrupted', []))"
    )
    command = [sys.executable, "-m", "interrupted"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (130, "interrupted: interrupted\n")


def test_garbage_is_collected_seldom_while_a_command_runs(capsys):
    """`run` raises the collector's threshold while a command runs, and restores it afterwards."""
    seen = []
    usual = gc.get_threshold()
    gc.set_threshold(700)
    try:
        run(lambda options: seen.append(gc.get_threshold()[0]) or {}, Options, PROG, [])
        assert gc.get_threshold()[0] == 700
    finally:
        gc.set_threshold(*usual)
    assert seen == [50_000]


def surroundings():
    """Returns the process-wide state that a command must leave as it was."""
    return (
        *(signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)),
        *(logging.getLogger(name).level for name in ("absl", "asyncio", "gcsfs")),
        sys.unraisablehook, sys.excepthook, sys.stdout, sys.stderr, Path.cwd(), dict(os.environ),
        gc.get_threshold(),
    )  # fmt: skip


@pytest.mark.parametrize("debug", [[], ["--debug"]])
@pytest.mark.parametrize(
    "command",
    [
        lambda options: {},
        *(fail(one) for one in (DataError("x"), ValueError("x"), KeyboardInterrupt())),
    ],
)
def test_a_command_leaves_its_process_as_it_was(command, debug, capsys, monkeypatch):
    """A command called in a notebook must not change the notebook's signal handlers or logging."""
    monkeypatch.setenv("HF_HOME", "")
    before = surroundings()
    run(command, Options, PROG, debug)
    assert surroundings() == before


def test_a_command_runs_in_any_thread(capsys):
    """A command also runs in a thread other than the main one, where Python handles no signals."""
    with ThreadPoolExecutor() as pool:
        assert pool.submit(run, lambda options: {}, Options, PROG, []).result() == 0


def test_a_full_disk_leaves_the_old_figure_and_no_half_of_a_new_one(tmp_path):
    """A limit on the size of files makes writing fail, as a full disk would."""
    out = tmp_path / "figure.png"
    out.write_text("old")
    _, unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, unlimited))
        with pytest.raises(CheckpointError, match=r"figure\.png: cannot be written"):
            save_figure(Figure(), out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, unlimited))
        signal.signal(signal.SIGXFSZ, handler)
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("json_output", [False, True])
def test_a_line_names_each_setting_of_the_file_that_the_command_line_makes_idle(
    json_output, tmp_path, capsys
):
    file = tmp_path / "x2.toml"
    file.write_text("[fit]\nlabel_smoothing = 0.1\nwd = 0.2\n")
    argv = ["--config", str(file), *["--json"] * json_output]
    seen = []

    def command(options):
        seen.append(options.settings().fit)
        return {}

    assert run(command, Options, PROG, [*argv, "--fit.loss", "focal"]) == 0
    captured = capsys.readouterr()
    (line,) = (captured.err if json_output else captured.out).splitlines()
    said = "fit.label_smoothing = 0.1: only works with fit.loss = cross_entropy, not with focal"
    assert line == f"{file}: {said}; this setting is ignored"
    assert run(command, Options, PROG, [*argv, "--fit.loss", "focal", "--print-config"]) == 0
    assert line in capsys.readouterr().err
    assert run(command, Options, PROG, [*argv, "--fit.lr", "0.1"]) == 0
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""
    assert [(fit.label_smoothing, fit.wd) for fit in seen] == [(0, 0.2), (0.1, 0.2)]
