"""`jaxch5 train` turns pictures into an accuracy, a run directory and an exit status."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from jaxch5.config.settings import Config, from_toml
from jaxch5.errors import ConfigError
from jaxch5.metrics import FIELDS
from jaxch5.run.directory import create_run
from jaxch5.task import OF_COMMANDS, SOFTMAX
from jaxch5.train import _learner, main
from jaxch5.training import hosts

SIZES = ("--data.presize", "48", "--data.size", "32", "--data.batch-size", "8")
SMALL = (*SIZES, "--model.weights", "none", "--fit.epochs", "2")
COLUMNS = ["epoch", "train_loss", "valid_loss", "accuracy", "error_rate", "time", "images/s"]


def train(*arguments, env=None):
    """Runs the command in its own process, with pipes instead of a terminal."""
    return subprocess.run(
        [sys.executable, "-m", "jaxch5.train", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=env,
    )


def run_in_process(capsys, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["train", *map(str, arguments)])
    status = main()
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def records(run):
    """Returns the records of a run without the values that depend on time."""
    clocks = {"seconds", "images_per_second"}
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in clocks} for line in lines]


@pytest.fixture(scope="module")
def finished(pictures, tmp_path_factory):
    """A run of two epochs of four steps each."""
    run = tmp_path_factory.mktemp("finished") / "run"
    ended = train("--data.path", pictures, "--workdir", run, *SMALL)
    assert ended.returncode == 0, ended.stderr
    return run, ended


@pytest.mark.slow
def test_without_arguments_it_learns_the_digits(tmp_path, monkeypatch, usual_compiler):
    """The command needs no arguments and no download to reach 98 % on the digits.

    This is about a point below the mean in the benchmarks.
    """
    monkeypatch.chdir(tmp_path)
    ended = train(env=usual_compiler)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    data, header, *rows, last, report, following = ended.stdout.splitlines()
    assert data == "1,797 pictures of 10 classes: 1,438 for training, 359 for validation"
    assert header.split() == COLUMNS
    assert [row.split()[0] for row in rows] == [f"{number}/5" for number in range(1, 6)]
    words = last.split()
    assert words[0] == "accuracy"
    assert float(words[1]) >= 98.0
    run = Path(report.removeprefix("report  ")).parent
    assert from_toml(run / "config.toml") == Config()
    # Short enough for a terminal of 60 columns.
    assert (len(report), following) == (60, f"next    jaxch5 evaluate {run}")


def test_in_a_pipe_there_are_only_lines(finished):
    run, ended = finished
    assert "\x1b" not in ended.stdout
    assert "\r" not in ended.stdout
    assert ended.stderr == ""
    data, header, *rows, last, report, following = ended.stdout.splitlines()
    assert data == "40 pictures of 2 classes: 32 for training, 8 for validation"
    assert header.split() == COLUMNS
    assert all(len(row) == len(header) for row in rows)
    assert [row.split()[0] for row in rows] == ["1/2", "2/2"]
    assert last.startswith("accuracy ")
    assert report == f"report  {run / 'report.html'}"
    assert following == f"next    jaxch5 evaluate {run}"


def test_what_to_do_next_is_short_where_it_was_trained_and_complete_in_the_report(
    pictures, tmp_path, monkeypatch
):
    """The suggested command has a relative path on the terminal and an absolute one in the report.

    A command on the terminal is copied within the current folder, one in the report to anywhere.
    """
    monkeypatch.chdir(tmp_path)
    ended = train("--data.path", pictures, "--workdir", "run", *SMALL, "--fit.lr", "1e-12")
    assert ended.returncode == 0, ended.stderr
    command = "jaxch5 lr_find --config {}/config.toml".format
    assert f"  {command('run')}\n" in ended.stdout
    assert command(tmp_path / "run") in Path("run/report.html").read_text(encoding="utf-8")


def test_a_run_directory_is_complete(finished, pictures):
    run, _ = finished
    config = from_toml(run / "config.toml")
    assert config.data.path == pictures
    assert config.fit.epochs == 2
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [set(record) for record in metrics] == 2 * [
        {
            *("epoch", "phase", "train_loss", "valid_loss", "accuracy", "error_rate"),
            *("seconds", "images_per_second"),
        }
    ]
    assert metrics[-1]["accuracy"] == 1 - metrics[-1]["error_rate"]
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"4", "8"}
    report = (run / "report.html").read_text()
    for part in (
        "Confusion matrix",
        "Top losses",
        "network looked",
        "40 pictures of 2 classes",
        "presize = 48",
    ):
        assert part in report


@pytest.mark.parametrize(
    ("every_steps", "kept"), [(0, 4), (3, 6), (0, None)], ids=["epoch", "within epoch", "nothing"]
)
def test_a_run_taken_up_ends_as_one_that_was_never_stopped(
    every_steps, kept, finished, pictures, tmp_path, capsys, monkeypatch
):
    """A resumed run ends with the records of a run that was never stopped.

    It is resumed from the end of an epoch, from within an epoch, or from its configuration alone.
    """
    if every_steps:
        run = tmp_path / "run"
        arguments = ["--data.path", pictures, "--workdir", run, *SMALL]
        arguments += ["--checkpoint.every-steps", every_steps]
        assert run_in_process(capsys, monkeypatch, *arguments)[0] == 0
    else:
        run = shutil.copytree(finished[0], tmp_path / "run")
    for checkpoint in (run / "checkpoints").iterdir():
        if checkpoint.name != str(kept):
            shutil.rmtree(checkpoint)
    if not kept:
        (run / "metrics.jsonl").unlink()
    status, out, _ = run_in_process(capsys, monkeypatch, "--resume", run)
    assert status == 0
    assert ("resuming after 1 of 2 epochs" in out) == bool(kept)
    assert records(run) == records(finished[0])


def test_the_results_of_a_profile_are_no_run(tmp_path, capsys, monkeypatch):
    run = create_run(Config(), tmp_path / "profile").path
    (run / "profile.jsonl").touch()
    status, _, err = run_in_process(capsys, monkeypatch, "--resume", run)
    assert status == 2
    assert f"{run}: is not a run: it has the results of jaxch5 transfer_profile" in err
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoints",
        "config.toml",
        "profile.jsonl",
    ]


def test_a_finished_run_says_so(finished, capsys, monkeypatch):
    """Resuming a finished run reports that it is finished.

    Settings that do not affect the result may still be changed, and the run records them.
    """
    run, _ = finished
    changed = ["--checkpoint.every-minutes", "1"]
    # A job script's variable may be empty, and then there are no other processes.
    alone = ["--distributed", ""]
    status, out, _ = run_in_process(capsys, monkeypatch, "--resume", run, *changed, *alone)
    assert status == 0
    assert "this run is finished" in out
    assert out.splitlines()[-3].startswith("accuracy ")
    assert from_toml(run / "config.toml").checkpoint.every_minutes == 1


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--fit.epochs", "9"], "fit.epochs: a resumed run keeps the value"),
        (["--data.size", "24"], "data.size: a resumed run keeps the value"),
        (["--config", "x.toml"], "--config: cannot be combined with --resume"),
        (["--workdir", "x"], "--workdir: cannot be combined with --resume"),
    ],
)
def test_a_run_is_taken_up_as_it_was_begun(finished, arguments, line, capsys, monkeypatch):
    status, _, err = run_in_process(capsys, monkeypatch, "--resume", finished[0], *arguments)
    assert status == 2
    assert line in err


def test_a_run_is_fine_tuned_from_another(finished, pictures, tmp_path, capsys, monkeypatch):
    """With another run as weights, first the head is trained and then the entire network.

    A run of another architecture is refused before a run directory is made.
    """
    run = tmp_path / "run"
    arguments = ["--data.path", pictures, "--workdir", run, *SIZES, "--fit.epochs", 1]
    status, _, err = run_in_process(capsys, monkeypatch, *arguments, "--model.weights", finished[0])
    assert status == 0, err
    assert [record["phase"] for record in records(run)] == ["frozen", "unfrozen"]
    config = from_toml(run / "config.toml")
    assert config.model.weights == str(finished[0])
    assert (config.fit.schedule, config.fit.lr, config.fit.div) == ("fine_tune", 2e-3, 5.0)
    status, _, err = run_in_process(
        capsys, monkeypatch, *arguments[:3], tmp_path / "other", *SIZES,
        "--model.weights", finished[0], "--model.arch", "resnet34",
    )  # fmt: skip
    assert status == 1
    assert "is a run of resnet18, not resnet34 (--model.arch resnet18)" in err
    assert not (tmp_path / "other").exists()


def test_a_run_goes_on_without_the_weights_that_it_began_with(
    finished, pictures, tmp_path, capsys, monkeypatch
):
    """A run needs only its own checkpoint to be resumed, even if the run of its weights is gone.

    Here the run is resumed after its first epoch, and the other run was removed.
    """
    run, origin = tmp_path / "run", shutil.copytree(finished[0], tmp_path / "origin")
    arguments = ["--data.path", pictures, "--workdir", run, *SIZES, "--fit.epochs", 1]
    run_in_process(capsys, monkeypatch, *arguments, "--model.weights", origin)
    shutil.rmtree(origin)
    expected = records(run)
    for checkpoint in sorted((run / "checkpoints").iterdir())[1:]:
        shutil.rmtree(checkpoint)
    status, out, err = run_in_process(capsys, monkeypatch, "--resume", run)
    assert status == 0, err
    assert "resuming after 1 of 2 epochs" in out
    assert records(run) == expected
    assert from_toml(run / "config.toml").model.weights == str(origin)


def test_without_the_hub_it_trains_from_scratch_and_says_so(
    pictures, tmp_path, capsys, monkeypatch
):
    """If the default weights cannot be downloaded, the run is trained from scratch.

    Its configuration records the weights `none` and the schedule of training from scratch. If the
    weights were asked for explicitly, there is an error instead.
    """
    run = tmp_path / "run"
    arguments = ["--data.path", pictures, "--workdir", run, *SIZES, "--fit.epochs", 1]
    status, out, _ = run_in_process(capsys, monkeypatch, *arguments)
    assert status == 0
    assert "no ImageNet weights, training from scratch: timm/resnet18.tv_in1k: " in out
    config = from_toml(run / "config.toml")
    assert (config.model.weights, config.fit.schedule, config.fit.lr) == ("none", "one_cycle", 2e-3)
    assert [record["phase"] for record in records(run)] == ["one_cycle"]

    arguments[3] = tmp_path / "other"
    status, _, err = run_in_process(capsys, monkeypatch, *arguments, "--model.weights", "imagenet")
    assert status == 1
    assert "resnet18.tv_in1k/resolve/main/model.safetensors" in err
    assert "--model.weights PATH" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "other").exists()


def test_processes_compare_their_weights_before_one_waits_for_another(monkeypatch):
    """If "auto" means something else in another process, no process waits for a download."""

    def differ(values):
        raise ConfigError(f"{values}: differ")

    monkeypatch.setattr(hosts, "agree", differ)
    monkeypatch.setattr(hosts, "first_then_others", pytest.fail)
    config = Config.model_validate({"model": {"weights": "imagenet"}})
    with pytest.raises(ConfigError, match="weights': 'imagenet'"):
        _learner(None, config, Console(quiet=True))


def test_json_is_one_document(pictures, tmp_path):
    run = tmp_path / "run"
    ended = train("--data.path", pictures, "--workdir", run, "--json", *SMALL[:-1], 1)
    assert ended.returncode == 0, ended.stderr
    document = json.loads(ended.stdout)
    assert document["run"] == str(run)
    assert document["epoch"] == 0
    # These lists contain every field that is not a metric, so that no metric takes its name.
    assert set(document) - set(SOFTMAX.scores()) <= {*FIELDS, *OF_COMMANDS}
    assert ended.stderr.splitlines()[1].split() == COLUMNS


def test_a_metric_does_not_replace_what_train_or_evaluate_prints(
    pictures, tmp_path, capsys, monkeypatch
):
    (tmp_path / "mine_of_train.py").write_text("def run(probabilities, labels): return 0.5")
    monkeypatch.syspath_prepend(tmp_path)
    argv = ("--data.path", pictures, "--workdir", tmp_path / "run", *SMALL)
    argv += ("--fit.metrics", "mine_of_train:run")
    status, _, err = run_in_process(capsys, monkeypatch, *argv)
    assert status == 2
    assert "fit.metrics = run: train or evaluate prints something else under this name; " in err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_it_learns_from_photographs(flowers, tmp_path, usual_compiler):
    """On five kinds of flowers (chance is 20 %), the accuracy after four epochs exceeds 35 %.

    The folder has its own validation pictures.
    """
    ended = train(
        "--data.path", flowers, "--workdir", tmp_path / "run", "--json",
        "--data.presize", 60, "--data.size", 48, "--fit.epochs", 4, "--model.weights", "none",
        env=usual_compiler,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "650 pictures of 5 classes: 500 for training, 150 for validation" in ended.stderr
    assert json.loads(ended.stdout)["accuracy"] > 0.35


def touch(path, content=b""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def missing(folder, picture):
    folder.rmdir()


def a_file(folder, picture):
    folder.rmdir()
    folder.write_text("")


def no_pictures(folder, picture):
    touch(folder / "notes.txt")


def no_class_folders(folder, picture):
    touch(folder / "1.jpg", picture)


def one_class(folder, picture):
    touch(folder / "cat" / "1.jpg", picture)


def a_class_of_one(folder, picture):
    for name in ("cat/1.jpg", "cat/2.jpg", "dog/1.jpg"):
        touch(folder / name, picture)


def too_few(folder, picture):
    for name in ("cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/2.jpg", "dog/3.jpg"):
        touch(folder / name, picture)


def with_broken(folder, picture):
    """Adds files that are not pictures; `tests/data/test_image.py` has further kinds of them."""
    for number in range(12):
        touch(folder / "cat" / f"{number}.jpg", picture)
        touch(folder / "dog" / f"{number}.jpg", picture)
    for number in range(4):
        touch(folder / "dog" / f"broken{number}.jpg", b"Dear diary")


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (missing, "photos: there is no such folder (--data.path)"),
        (a_file, "photos: is a file, not a folder of pictures"),
        (no_pictures, "photos: holds no pictures; passed over: 1 file of another kind"),
        (no_class_folders, "photos: 1.jpg is in no class folder"),
        (one_class, "photos: holds one class only, cat"),
        (a_class_of_one, "class dog has 1 picture"),
        (too_few, "data.batch_size = 8 is more than the 4 pictures of the training set"),
        (with_broken, ".jpg: is not a picture in a known format"),
    ],
)
def test_bad_pictures_end_in_one_line_and_leave_nothing(
    make, line, pictures, tmp_path, capsys, monkeypatch
):
    folder, run = tmp_path / "photos", tmp_path / "run"
    folder.mkdir()
    make(folder, (pictures / "red" / "0.jpg").read_bytes())
    status, _, err = run_in_process(
        capsys, monkeypatch, "--data.path", folder, "--workdir", run, *SMALL
    )
    assert status == 1
    assert line in err
    assert ("--data.on-bad skip" in err) == (make is with_broken)
    assert err.count("\n") == 1
    assert not run.exists()


def test_a_run_whose_disk_fills_goes_on_and_says_so(pictures, tmp_path):
    """A run continues if its checkpoints cannot be saved, and ends with an error that says so.

    Here no file may grow beyond a megabyte; a checkpoint needs about a hundred.
    """

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))

    run = tmp_path / "run"
    ended = subprocess.run(
        [sys.executable, "-m", "jaxch5.train", "--data.path", pictures, "--workdir", run, *SMALL],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
    )
    assert ended.returncode == 1
    unsaved = f"{run}/checkpoints: the checkpoint could not be saved: "
    assert ended.stdout.count(unsaved) == 2, ended.stdout
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert unsaved in ended.stderr
    assert len(records(run)) == 2
    assert not list(run.glob("checkpoints/*tmp*"))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_that_can_be_taken_up(number, status, pictures, tmp_path):
    """After SIGINT or SIGTERM, training ends within ten seconds and prints how to resume it.

    The last checkpoint is no older than the last recorded epoch.
    """
    run = tmp_path / "run"
    arguments = ["--data.path", pictures, "--workdir", run, *SIZES, "--fit.epochs", "1000"]
    arguments += ["--model.weights", "none"]
    process = subprocess.Popen(
        [sys.executable, "-m", "jaxch5.train", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert any(line.split()[0] == "1/1000" for line in process.stdout)
    began = time.perf_counter()
    process.send_signal(number)
    _, err = process.communicate()
    assert time.perf_counter() - began < 10
    assert process.returncode == status
    assert f"resume  jaxch5 train --resume {run}" in err
    assert "Traceback" not in err
    steps = [int(path.name) for path in (run / "checkpoints").iterdir()]
    assert max(steps) >= 4 * len(records(run))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_the_output_is_an_error(pictures, tmp_path):
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "jaxch5.train", "--print-config"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert ended.returncode == 1
    assert "No space left on device" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_run_directory_that_cannot_be_written_is_named(pictures, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    status, _, err = run_in_process(
        capsys, monkeypatch, "--data.path", pictures, "--workdir", tmp_path / "file" / "run", *SMALL
    )
    assert status == 1
    assert "file/run: cannot be written (Not a directory)" in err


def test_help_needs_no_heavy_import():
    """`--help` answers without importing Flax, Orbax, Grain, Matplotlib or scikit-learn."""
    code = "import sys, jaxch5.train as t; sys.argv[1:] = ['--help']\ntry: t.main()\nfinally: "
    code += "assert not {'flax', 'orbax', 'grain', 'matplotlib', 'sklearn'} & set(sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False
    )
    assert ended.returncode == 0, ended.stderr


def test_bad_pictures_are_left_out_where_asked(pictures, tmp_path, capsys, monkeypatch):
    """Unreadable pictures are counted, listed in the run directory, and left out again on resume.

    This holds even for a picture that can be read by then.
    """
    folder = tmp_path / "pictures"
    shutil.copytree(pictures, folder)
    (folder / "red" / "0.jpg").write_text("no picture")
    (folder / "blue" / "3.jpg").write_bytes(b"")
    run = tmp_path / "run"
    skip = ("--data.on-bad", "skip", "--data.cache", "device", "--workdir", run)
    status, output, _ = run_in_process(capsys, monkeypatch, "--data.path", folder, *skip, *SMALL)
    assert status == 0
    assert "2 pictures cannot be read and are left out" in output
    assert "38 pictures of 2 classes" in output
    lines = [json.loads(line) for line in (run / "skipped.jsonl").read_text().splitlines()]
    assert [line["reference"] for line in lines] == ["blue/3.jpg", "red/0.jpg"]
    (folder / "red" / "0.jpg").write_bytes((folder / "red" / "1.jpg").read_bytes())
    status, output, _ = run_in_process(capsys, monkeypatch, "--resume", run)
    assert status == 0
    assert "2 pictures could not be read when the run began and are left out" in output


@pytest.fixture
def stopped(finished, tmp_path):
    """A run that was stopped after its first epoch, and the copy of the pictures that it reads."""
    run = shutil.copytree(finished[0], tmp_path / "run")
    shutil.rmtree(run / "checkpoints" / "8")
    config = from_toml(run / "config.toml")
    folder = shutil.copytree(config.data.path, tmp_path / "pictures")
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text.replace(str(config.data.path), str(folder)))
    return run, folder


def test_a_run_goes_on_with_the_pictures_that_it_began_with(
    stopped, finished, pictures, capsys, monkeypatch
):
    """Pictures that were added since a run began, even a new class, do not affect a resumed run.

    It ends with the records of a run that was never stopped.
    """
    run, folder = stopped
    shutil.copytree(pictures / "red", folder / "amber")
    for number in range(9):
        shutil.copy(pictures / "blue" / "0.jpg", folder / "red" / f"new{number}.jpg")
    status, out, err = run_in_process(capsys, monkeypatch, "--resume", run)
    assert status == 0, err
    assert out.startswith("29 pictures were added since the run began and are left out\n40 pict")
    assert records(run) == records(finished[0])


def test_a_run_goes_on_where_its_pictures_moved(stopped, finished, capsys, monkeypatch):
    run, folder = stopped
    moved = folder.rename(folder.with_name("moved"))
    status, _, err = run_in_process(capsys, monkeypatch, "--resume", run)
    assert status == 1
    assert "there is no such folder (--data.path)" in err
    status, _, err = run_in_process(capsys, monkeypatch, "--resume", run, "--data.path", moved)
    assert status == 0, err
    assert records(run) == records(finished[0])
    assert from_toml(run / "config.toml").data.path == moved


def test_a_run_goes_on_where_its_archive_moved(stopped, finished, tmp_path, capsys, monkeypatch):
    """An earlier version recorded an archive's path as it was given, even if it was relative."""
    run, folder = stopped
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    archive = shutil.make_archive(tmp_path / "images", "zip", folder)
    config = run / "config.toml"
    config.write_text(config.read_text().replace(f'path = "{folder}"', 'archive = "images.zip"'))
    monkeypatch.chdir(folder)
    status, _, err = run_in_process(capsys, monkeypatch, "--resume", run)
    assert status == 1
    assert "images.zip: cannot be read" in err
    status, _, err = run_in_process(capsys, monkeypatch, "--resume", run, "--data.archive", archive)
    assert status == 0, err
    assert records(run) == records(finished[0])
    assert from_toml(config).data.archive == archive


@pytest.mark.parametrize(("to", "line"), [(None, "is gone"), ("red", "(and 1 other)")])
def test_a_run_does_not_go_on_without_a_picture(to, line, stopped, capsys, monkeypatch):
    """A run is not resumed if one of its pictures is gone or is in another class's folder."""
    run, folder = stopped
    (folder / "blue" / "3.jpg").unlink()
    if to:
        (folder / "blue" / "4.jpg").rename(folder / to / "blue4.jpg")
    before = (run / "metrics.jsonl").read_text()
    status, out, err = run_in_process(capsys, monkeypatch, "--resume", run)
    assert status == 1
    assert "blue/3.jpg" in err
    assert line in err
    assert f"begin another run with --model.weights {run}" in err
    assert err.count("\n") == 1
    assert "epoch" not in out
    assert (run / "metrics.jsonl").read_text() == before


def test_weights_that_know_the_validation_set_are_named(
    finished, pictures, tmp_path, capsys, monkeypatch
):
    """A warning names weights that were trained on pictures of the validation set.

    This happens if the pictures are those of the weights' run, but are split by another seed.
    """
    for seed, known in ((1, True), (42, False)):
        arguments = ["--data.path", pictures, "--workdir", tmp_path / f"run{seed}", *SIZES]
        arguments += ["--model.weights", finished[0], "--fit.epochs", 1]
        status, out, err = run_in_process(
            capsys, monkeypatch, *arguments, "--data.split-seed", seed
        )
        assert status == 0, err
        assert ("run was trained on " in out) == known
        assert ("the accuracy will be too high" in out) == known


def test_a_run_without_a_record_goes_on_and_says_so(stopped, finished, capsys, monkeypatch):
    run, _ = stopped
    (run / "pictures.jsonl.gz").unlink()
    status, out, err = run_in_process(capsys, monkeypatch, "--resume", run)
    assert status == 0, err
    assert "this run has no record of its pictures" in out
    assert records(run) == records(finished[0])
    assert not (run / "pictures.jsonl.gz").exists()
