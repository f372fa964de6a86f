"""When a person does what an error message suggests, the same command succeeds."""

import csv
import importlib
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from jaxch5.cli import Options, parse, run
from jaxch5.config.building import load_data
from jaxch5.demo import listening
from jaxch5.errors import ConfigError, DataError, TrainingError
from jaxch5.training.memory import Need, _too_large
from jaxch5.training.mesh import _not_equal

SMALL = ("--data.presize", "16", "--data.size", "16")


def put(root, *names):
    """Writes different pictures under the given names, and returns their folder."""
    for number, name in enumerate(names):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
    return root


def classes(root, count=6):
    return put(root, *(f"{name}/{number}.png" for name in "ab" for number in range(count)))


def table(root, header, rows):
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return root / "labels.csv"


def started(capsys, command, *arguments):
    """Runs a command, and returns its exit status and what it wrote to standard error."""
    module = importlib.import_module(f"jaxch5.{command}")
    (options,) = (
        one
        for one in vars(module).values()
        if isinstance(one, type) and issubclass(one, Options) and one.__module__ == module.__name__
    )
    function = getattr(module, command)
    status = run(function, options, f"jaxch5 {command}", list(map(str, arguments)))
    out, err = capsys.readouterr()
    print(out)
    return status, err


# Functions by name. Each fills a folder and returns a command that fails, a pattern that matches
# the error message, and a function that is called with the groups of the match. That function
# returns arguments to add, or does what the message suggests, or returns a command to run first; if
# it is None, the test ends after the match. Commands and functions that prepare the failure come
# before the command that fails.
WAYS_OUT = {}


def way_out(make):
    WAYS_OUT[make.__name__] = make
    return make


@way_out
def pictures_beside_one_another(folder):
    put(folder, *(f"{name}_{n}.png" for name in ("daisy", "rose") for n in range(6)))
    return (
        ("verify", "--data.path", folder),
        r"(--data\.pattern)",
        lambda it: (it, r"(.+)_\d+\.png"),
    )


@way_out
def a_pattern_without_a_group(folder):
    put(folder, *(f"{name}_{n}.png" for name in ("daisy", "rose") for n in range(6)))
    first = ("verify", "--data.path", folder, "--data.pattern", "daisy|rose")
    return first, r"as in (\S+)jpg", lambda said: ("--data.pattern", f"{said}png")


@way_out
def a_picture_that_is_none(folder):
    (classes(folder) / "a" / "0.png").write_text("no picture")
    first = ("show", "--data.path", folder, *SMALL, "--data.batch-size", "4", "--out")
    return (*first, folder.parent / "batch.png"), r"(--data\.on-bad) (skip)", lambda *said: said


@way_out
def several_pictures_that_are_none(folder):
    """No batch size is given, so it is reduced to the number of pictures that are left."""
    classes(folder)
    (folder / "a" / "0.png").write_text("no picture")
    whole = (folder / "b" / "1.png").read_bytes()
    (folder / "b" / "1.png").write_bytes(whole[:60])
    first = ("show", folder, *SMALL, "--out", folder.parent / "batch.png")
    names = r"^jaxch5 show: 2 pictures cannot be read: a/0\.png: .*, b/1\.png: "
    return first, names + r".*(--data\.on-bad) (skip)", lambda *said: said


@way_out
def file_names_that_tell_the_class(folder):
    put(folder, *(f"{name}_{n}.png" for name in ("daisy", "rose") for n in range(6)))
    first = ("show", folder, *SMALL, "--out", folder.parent / "batch.png")
    return first, r"(--data\.pattern) '([^']+)'", lambda *said: said


@way_out
def a_folder_two_too_high(folder):
    classes(folder / "sets" / "photos")
    first = ("show", "--data.path", folder, *SMALL, "--out", folder.parent / "batch.png")
    return first, r"(--data\.path) (\S+)\n", lambda *said: said


@way_out
def a_picture_that_is_none_in_a_set_to_pack(folder):
    (classes(folder) / "a" / "0.png").write_text("no picture")
    first = ("pack", folder, folder.parent / "packed", "--data.presize", "16")
    return first, r"(--data\.on-bad) (skip)", lambda *said: said


@way_out
def a_picture_that_is_none_and_is_removed(folder):
    bad = classes(folder) / "a" / "0.png"
    bad.write_text("no picture")
    first = ("pack", folder, folder.parent / "packed", "--data.presize", "16")
    return first, r"fix the file or (remove) it", lambda said: bad.unlink()


@way_out
def more_pictures_a_step_than_there_are(folder):
    first = ("show", "--data.path", classes(folder), *SMALL, "--data.batch-size", "64", "--out")
    return (*first, folder.parent / "x.png"), r"(--data\.batch-size) (\d+) or less", lambda *it: it


@way_out
def a_class_of_one(folder):
    put(classes(folder), "c/1.png")
    first = ("show", "--data.path", folder, *SMALL, "--data.batch-size", "4", "--out")
    add = lambda said: put(folder, *(f"c/{number}.png" for number in range(6)))  # noqa: E731
    return (*first, folder.parent / "x.png"), r"(add|remove)", lambda said: add(said) and None


@way_out
def a_packed_set_at_a_higher_resolution(folder):
    packed = folder.parent / "packed"
    before = ("pack", classes(folder), packed, "--data.presize", "16")
    first = ("show", "--data.path", packed, "--data.presize", "32", "--data.size", "16")
    first = (*first, "--data.batch-size", "4", "--out", folder.parent / "x.png")
    return before, first, r"(--data\.presize) (\d+) or less", lambda *said: said


@way_out
def another_set_where_one_is_packed(folder):
    packed = folder.parent / "packed"
    before = ("pack", classes(folder / "one"), packed, "--data.presize", "16")
    first = ("pack", classes(folder / "two", 5), packed, "--data.presize", "16")
    return before, first, r"(remove) it, or name another", lambda said: shutil.rmtree(packed)


@way_out
def no_packed_set(folder):
    """Makes a packed set from which a shard was removed."""
    packed = folder.parent / "packed"
    before = ("pack", classes(folder), packed, "--data.presize", "16")
    first = ("pack", folder, packed, "--data.presize", "16")

    def remove_a_shard():
        next(packed.glob("*.array_record")).unlink()

    again = ("show", "--data.path", packed, *SMALL, "--data.batch-size", "4", "--out")
    again = (*again, folder.parent / "x.png")
    return before, remove_a_shard, again, r"run jaxch5 (pack) again", lambda said: first


@way_out
def a_table_without_those_columns(folder):
    put(folder, *(f"{n}.png" for n in range(12)))
    file = table(folder, ("file", "kind"), [(f"{n}.png", "ab"[n % 2]) for n in range(12)])
    first = ("verify", "--data.path", file)
    names = r"(--data\.image-column) and (--data\.label-column)"
    return first, names, lambda image, label: (image, "file", label, "kind")


@way_out
def a_table_in_another_folder(folder):
    put(folder / "photos", *(f"{n}.png" for n in range(12)))
    file = table(folder, ("image", "label"), [(f"{n}.png", "ab"[n % 2]) for n in range(12)])
    return ("verify", "--data.path", file), r"(--data\.root)", lambda it: (it, folder / "photos")


@way_out
def a_split_column_that_is_none(folder):
    put(folder, *(f"{number}.png" for number in range(12)))
    rows = [(f"{n}.png", "ab"[n % 2]) for n in range(12)]
    first = ("show", "--data.path", table(folder, ("image", "label"), rows), *SMALL)
    first = (*first, "--data.batch-size", "4", "--out", folder.parent / "x.png")
    first = (*first, "--data.split", "given")
    return first, r"(--data\.split) (random) needs none", lambda *said: said


@way_out
def a_folder_of_one_class_that_holds_the_classes(folder):
    classes(folder / "photos")
    first = ("verify", "--data.path", folder)
    return first, r"(--data\.path) (\S+)\n", lambda *said: said


@way_out
def more_devices_than_there_are(folder):
    first = ("train", "--fit.devices", "4096", "--fit.epochs", "1", "--model.weights", "none")
    said = r"fit\.devices = 4096: the number available is \d+; (0) uses all"
    # The corrected command would train, and fail here for another reason, so it is not run (None).
    first = (*first, "--data.path", classes(folder), *SMALL, "--data.batch-size", "4")
    first = (*first, "--workdir", folder.parent / "run", "--model.precision", "bf16")
    return first, said, None


@way_out
def presize_below_size(folder):
    first = ("show", "--data.path", classes(folder), "--data.presize", "8", "--data.size", "16")
    first = (*first, "--data.batch-size", "4", "--out", folder.parent / "x.png")
    return first, r"(data\.presize) = 8 is below data\.size = (\d+)", lambda n, v: (f"--{n}", v)


@pytest.mark.parametrize("name", WAYS_OUT)
def test_what_a_message_says_is_done_and_the_command_succeeds(name, tmp_path, capsys):
    folder = tmp_path / "set"
    folder.mkdir()
    *before, first, said, follow = WAYS_OUT[name](folder)
    for step in before:
        if callable(step):
            step()
        else:
            assert started(capsys, *step)[0] == 0
    status, error = started(capsys, *first)
    assert status in (1, 2)
    assert error.count("\n") == 1, error
    match = re.search(said, error)
    assert match, error
    if follow is None:
        return
    more = follow(*match.groups())
    if more and more[0] in ("pack",):
        assert started(capsys, *more)[0] == 0
        more = ()
    status, error = started(capsys, *replaced(first, more or ()))
    assert status == 0, error


def test_a_kind_of_device_that_is_not_here_is_one_line(tmp_path):
    command = [sys.executable, "-m", "jaxch5", "show", "--out", str(tmp_path / "x.png")]
    environment = os.environ | {"JAX_PLATFORMS": "rocm"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.startswith("jaxch5 show: JAX_PLATFORMS = rocm: jax finds no such device")
    assert ended.stderr.count("\n") == 1


def test_a_batch_that_nobody_chose_fits_the_set(tmp_path, capsys):
    """A batch size that is not given is reduced to the number of training pictures.

    The summary of the data reports this. A batch size that is given and too large is refused.
    """
    folder = classes(tmp_path / "set")
    config = parse(Options, ["--data.path", str(folder), *SMALL], "command").settings()
    data = load_data(config)
    assert data.train.batch_size == len(data.train.items) == 10
    assert "batches of 10, which is all there is for training" in data.outline()
    with pytest.raises(DataError, match=r"choose --data\.batch-size 10 or less"):
        load_data(config.model_copy(update={"data": {"batch_size": 32}}))


def replaced(arguments, more):
    """Returns the command line `arguments` with the options in `more` replaced or added."""
    kept = list(arguments)
    for name in (one for one in more if str(one).startswith("--")):
        if name in kept:
            place = kept.index(name)
            del kept[place : place + 2]
    return [*kept, *more]


@pytest.mark.parametrize("command", ["predict", "demo"])
def test_where_there_is_no_set_none_is_left_out_of(command, trained, tmp_path, capsys):
    # The errors of these commands do not suggest `--data.on-bad skip`, which is an option for sets.
    bad = tmp_path / "1.png"
    bad.write_text("no picture")
    if command == "predict":
        status, error = started(capsys, command, trained[0], bad)
        assert status == 1
    else:
        from jaxch5.demo import answer
        from jaxch5.results.predictor import load_learner

        error = answer(load_learner(trained[0]), str(bad))[1]
    assert "not a picture in a known format" in error
    assert "--data" not in error


def test_what_is_no_learner_is_exported_as_one(trained, pictures, tmp_path, capsys):
    """If weights are given where a learner is needed, the error names a command that exports one.

    A file of weights does not contain the names of its classes; a learner's file does.
    """
    run_path, _ = trained
    weights, learner = tmp_path / "model.safetensors", tmp_path / "learner.safetensors"
    assert started(capsys, "export", run_path, "--out", weights)[0] == 0
    picture = pictures / "red" / "0.jpg"
    status, error = started(capsys, "predict", weights, picture)
    if status:
        command, *arguments = re.search(r"jaxch5 (\w+) RUN (.*)", error)[0].split()[1:]
        arguments = [run_path if one == "RUN" else one for one in arguments]
        assert started(capsys, command, *arguments, "--out", learner)[0] == 0
        assert started(capsys, "predict", learner, picture)[0] == 0


def test_a_port_that_is_taken(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="choose another --port, or 0 for any free one"):
            listening(taken.getsockname()[1]).__enter__()
    with listening(0) as free:
        assert free.getsockname()[1]


@given(
    batch_size=st.integers(1, 4096),
    processes=st.integers(1, 16),
    devices=st.integers(1, 16),
    resumed=st.booleans(),
)
def test_what_devices_are_told_to_share_they_can(batch_size, processes, devices, resumed):
    """A resumed run keeps its batch size, so fewer devices or processes are advised."""
    if batch_size % (processes * devices) == 0:
        return
    line = _not_equal(batch_size, processes, devices, resumed)
    if nearest := re.search(r"--data\.batch-size (\d+)", line):
        assert int(nearest[1]) > 0
        assert int(nearest[1]) % (processes * devices) == 0
    assert bool(nearest) != resumed
    if few := re.search(r" and (\d+) process", line):
        assert int(few[1]) < processes
        processes = int(few[1])
    if fewer := re.search(r"--fit\.devices (\d+)", line):
        assert int(fewer[1]) < devices or few
        assert batch_size % (processes * int(fewer[1])) == 0
    assert nearest or fewer


@given(
    batch_size=st.integers(1, 4096),
    fixed=st.integers(0, 10**9),
    each=st.integers(1, 10**8),
    limit=st.integers(1, 10**10),
    devices=st.integers(1, 16),
)
def test_a_batch_that_is_told_to_fit_is_smaller_and_fits(batch_size, fixed, each, limit, devices):
    need = Need(fixed=fixed, per_picture=each)
    error = _too_large(need, batch_size, 224, limit, devices)
    assert isinstance(error, TrainingError)
    if told := re.search(r"--data\.batch-size (\d+)", str(error)):
        assert 0 < int(told[1]) < batch_size
        assert int(told[1]) % devices == 0
        assert need.of(int(told[1])) <= limit or need.of(batch_size) <= limit
    else:
        assert "--data.size" in str(error)


def test_every_configuration_that_comes_along_can_be_chosen(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as error:
        parse(Options, ["--config", "nothing"], "command")
    names = str(error.value).rpartition("jaxch5 comes with ")[2].split(", ")
    assert len(names) > 2
    for name in names:
        assert parse(Options, ["--config", name], "command").settings()


@given(
    data=st.data(),
    option=st.sampled_from(
        ["--data.presize", "--data.batch-size", "--fit.epochs", "--model.arch", "--data.on-bad"]
    ),
)
def test_an_option_that_is_said_to_be_meant_is_one(data, option):
    """If the error for a mistyped option suggests another, that option exists.

    With the suggested option, only its value is refused.
    """
    place = data.draw(st.integers(3, len(option) - 1))
    slip = option[:place] + data.draw(st.sampled_from("abcxyz")) + option[place + 1 :]
    with pytest.raises(ConfigError) as error:
        parse(Options, [slip, "x"], "command")
    if meant := re.search(r"did you mean (\S+)\?", str(error.value)):
        with pytest.raises(ConfigError) as other:
            parse(Options, [meant[1], "\0"], "command")
        assert "no such option" not in str(other.value)


def test_a_folder_whose_name_is_not_utf8_is_used_by_a_link(tmp_path, capsys):
    folder = tmp_path / "set\udcff"
    try:
        classes(folder)
    except OSError:
        pytest.skip("this file system takes names in UTF-8 alone")
    status, error = started(capsys, "verify", "--data.path", folder)
    if status:
        assert "name a link to it" in error
        Path(tmp_path / "link").symlink_to(folder)
        assert started(capsys, "verify", "--data.path", tmp_path / "link")[0] == 0
