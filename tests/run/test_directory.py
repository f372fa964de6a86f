"""A run directory is created once and can be opened again; its metrics are always intact."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxch5.config.settings import Config, DataConfig
from jaxch5.errors import CheckpointError, ConfigError
from jaxch5.run import directory
from jaxch5.run.directory import (
    add_environment,
    create_run,
    discard_run,
    home_of,
    locked,
    open_run,
    write_metrics,
)
from jaxch5.util.files import unused


def test_a_home_that_nobody_has_is_said_with_what_was_meant():
    with pytest.raises(ConfigError, match="did you mean ~/no_such_user/run"):
        open_run(Path("~no_such_user/run"))


def test_a_run_can_be_opened_again_with_its_configuration(tmp_path):
    config = Config(seed=3)
    run = create_run(config, tmp_path / "run")
    assert open_run(tmp_path / "run") == (run, config)


def test_names_are_relative_to_the_folder_or_to_that_of_the_table(tmp_path):
    folder, table, archive = tmp_path / "photos", tmp_path / "labels.csv", tmp_path / "one.zip"
    folder.mkdir()
    table.write_text("image,label")
    archive.write_bytes(b"PK")
    homes = [home_of(DataConfig(path=path)) for path in (folder, table, archive, None)]
    # The pictures in an archive are not files in the archive's folder.
    assert homes == [folder, tmp_path, None, None]
    assert home_of(DataConfig(path=table, root=folder)) == folder


def test_runs_begun_in_the_same_second_do_not_meet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [create_run(Config()).path for _ in range(3)]
    assert len(set(runs)) == 3
    assert all(run.parent == tmp_path / "runs" for run in runs)
    assert all("digits-resnet18" in run.name for run in runs)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ({"tfds": "oxford_iiit_pet:3.*.*"}, "oxford_iiit_pet.3.*.*"),
        ({"archive": "https://example.org/pets.zip?download=1"}, "pets.zip"),
        ({"archive": "sets/pets.zip"}, "pets.zip"),
        ({"path": "my photos"}, "my photos"),
        ({"path": "s3://bucket/flowers"}, "flowers"),
        ({}, "digits"),
    ],
)
def test_a_run_is_named_after_its_set(data, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = create_run(Config.model_validate({"data": data}))
    assert run.path.name.partition("-")[2].split("-", 2)[2].endswith(f"-{name}-resnet18")


def test_a_run_that_meets_another_takes_the_next_name(tmp_path, monkeypatch):
    """Another process may create the folder just after this one has found its name unused."""
    monkeypatch.chdir(tmp_path)
    taken = []

    def found_unused(path):
        free = unused(path)
        if not taken:
            free.mkdir(parents=True)
            (free / "config.toml").touch()
            taken.append(free)
        return free

    monkeypatch.setattr(directory, "unused", found_unused)
    run = create_run(Config())
    assert run.path.name == f"{taken[0].name}-2"
    assert (taken[0] / "config.toml").read_text() == ""


def test_runs_that_lead_nowhere_are_named(tmp_path, monkeypatch):
    """The disk that holds the runs may not be mounted."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").symlink_to("not/mounted")
    with pytest.raises(CheckpointError, match="cannot be written"):
        create_run(Config())


def test_a_run_is_trained_where_files_cannot_be_locked(tmp_path, monkeypatch, capsys):
    def refuse(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    run = create_run(Config(), tmp_path / "run")
    monkeypatch.setattr(directory.fcntl, "flock", refuse)
    with locked(run):
        pass
    assert f"{run.path}: cannot be locked here (No locks available)" in capsys.readouterr().err


def test_a_run_is_never_written_over(tmp_path):
    create_run(Config(), tmp_path)
    with pytest.raises(
        ConfigError, match=r"already holds a run; resume it with jaxch5 train --resume"
    ):
        create_run(Config(), tmp_path)


def test_a_directory_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="is not empty"):
        create_run(Config(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_path_that_cannot_be_made_is_named(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(CheckpointError, match=r"file/run: cannot be written .*--workdir"):
        create_run(Config(), file / "run")


def test_what_is_no_run_is_said_to_be_none(tmp_path):
    with pytest.raises(ConfigError, match=r"is not a run directory: it has no config\.toml"):
        open_run(tmp_path)
    with pytest.raises(ConfigError, match="none: there is no such run; to list the runs"):
        open_run(tmp_path / "none")


def test_metrics_are_a_line_an_epoch(tmp_path):
    run = create_run(Config(), tmp_path / "run")
    records = [{"epoch": 0, "accuracy": 0.5}, {"epoch": 1, "accuracy": 0.75}]
    for count in (1, 2):
        write_metrics(run, records[:count])
    lines = run.metrics_file.read_text().splitlines()
    assert [json.loads(line) for line in lines] == records
    assert sorted(path.name for path in run.path.iterdir()) == [
        "checkpoints",
        "config.toml",
        "metrics.jsonl",
    ]


def test_a_discarded_run_leaves_nothing(tmp_path):
    run = create_run(Config(), tmp_path / "run")
    discard_run(run)
    assert not run.path.exists()


def test_a_second_process_is_refused_and_a_dead_one_holds_nothing(tmp_path):
    run = create_run(Config(), tmp_path / "run")
    code = (
        "import sys; from pathlib import Path; from jaxch5.run.directory import *\n"
        "with locked(RunDir(Path(sys.argv[1]))): print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, run.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout.readline() == "held\n"
    holder = f"is being written by process {other.pid} on "
    with pytest.raises(CheckpointError, match=holder), locked(run):
        pass
    other.kill()
    other.communicate()
    with locked(run):
        assert str(os.getpid()) in run.lock_file.read_text()


def test_each_start_adds_a_line_about_where_it_runs(tmp_path):
    run = create_run(Config(), tmp_path / "run")
    add_environment(run, {"device": "one"})
    add_environment(run, {"device": "two"})
    lines = run.environment_file.read_text().splitlines()
    assert [json.loads(line)["device"] for line in lines] == ["one", "two"]
