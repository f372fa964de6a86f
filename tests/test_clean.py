"""`jaxch5 clean RUN` loses no answer, touches no picture, and prepares training on new labels."""

import hashlib
import io
import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image

from jaxch5.clean import CleanOptions, clean, set_of, settings_of
from jaxch5.cli import parse
from jaxch5.cli import run as run_command
from jaxch5.config.building import load_data
from jaxch5.config.settings import from_toml
from jaxch5.config.toml import to_toml
from jaxch5.data.pictures import read_pictures
from jaxch5.data.sources.table import from_csv
from jaxch5.plots.attribution import overlay
from jaxch5.results.attribution import attribution
from jaxch5.results.corrections import Row, corrected, write_labels
from jaxch5.run.directory import RunDir, locked
from jaxch5.suspects import SuspectsOptions, suspects
from jaxch5.train import TrainOptions, train
from tests.pages import FAINT

EVIL = "<img src=x onerror=alert(1)>'\"&"
DOUBT = "the last undo may have changed nothing: check the answers"
TURNED = "right\u202eto left"


def suspects_of(folder, *chosen, **more):
    """Writes suspects.json with suspects given as (path, label, prediction), in this order."""
    names = {name for _, label, prediction in chosen for name in (label, prediction)}
    listed = [
        {
            "image": str(path),
            "label": label,
            "prediction": prediction,
            "probability": 0.9,
            "label_probability": 0.05,
            "doubt": 0.95,
            "loss": 3.0,
            "part": "train",
            "likely_wrong": True,
        }
        | more.get("each", {})
        for path, label, prediction in chosen
    ]
    judged = {
        "format": 1,
        "by": "features",
        "run": more.get("run"),
        "classes": more.get("classes") or sorted(names),
        "judged": len(listed),
        "wrong": len(listed),
        "suspects": listed,
        "near_duplicates": more.get("near_duplicates", []),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "suspects.json").write_text(json.dumps(judged))


@pytest.fixture
def cleaned(trained, pictures, tmp_path):
    """Provides a copy of a run whose suspects are all blue pictures and three red ones."""
    folder = shutil.copytree(trained[0], tmp_path / "run")
    chosen = [(pictures / "blue" / f"{number}.jpg", "blue", "red") for number in range(20)]
    chosen += [(pictures / "red" / f"{number}.jpg", "red", "blue") for number in range(3)]
    near = {
        "each": {
            "nearest": {
                "label": [str(pictures / "blue" / "7.jpg")],
                "prediction": [str(pictures / "red" / "7.jpg")],
            }
        },
        "near_duplicates": [
            {
                "images": [str(pictures / "blue" / f"{number}.jpg") for number in (0, 1)],
                "labels": ["blue", "blue"],
                "parts": ["train", "valid"],
                "kind": "leaks",
            }
        ],
    }
    suspects_of(folder, *chosen, run=str(folder), **near)
    return folder


def called(capsys, *argv):
    status = run_command(clean, CleanOptions, "jaxch5 clean", list(map(str, argv)))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


class Server:
    """Runs the command in a process of its own, and sends it the requests of its page."""

    def __init__(self, *argv):
        command = [sys.executable, "-m", "jaxch5.clean", *map(str, argv), "--port", "0"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.said = []
        for line in self.process.stdout:
            self.said.append(line.rstrip())
            if found := re.search(r"http://\S+/", line):
                self.address = found[0]
                break
        else:
            raise AssertionError(self.process.stderr.read())
        self.load()

    def load(self):
        self.content = requests.get(f"{self.address}suspects").json()
        return self.content

    def post(self, kind, *suspects, path="answer", **more):
        now = {name: self.content[name] for name in ("digest", "seen")}
        body = {**now, "kind": kind, "suspects": suspects, **more}
        reply = requests.post(f"{self.address}{path}", json=body)
        if reply.ok and path == "answer":
            self.content["seen"] = reply.json()["seen"]
        return reply

    def kill(self):
        self.process.kill()
        self.process.communicate()

    def end(self):
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=20)
        return out.splitlines(), err, self.process.returncode


@pytest.fixture
def serve():
    servers = []

    def start(*argv):
        servers.append(Server(*argv))
        return servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.kill()


def tree(folder):
    """Returns the time of the last change and the content's hash of each file below a folder."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_answers_become_labels_and_no_picture_is_touched(cleaned, pictures, serve, trained):
    """Each picture stays in its part, and the printed command uses the new labels."""
    before = tree(pictures)
    server = serve(cleaned)
    assert len(server.content["suspects"]) == 23
    red = server.content["classes"].index("red")
    assert server.post("class", 0, **{"class": red}).ok
    assert server.post("drop", 1).ok
    assert server.post("keep", 2, 3).ok
    assert server.post("unsure", 4).ok
    assert server.post("drop", 5).ok
    assert server.post("undo").json()["answers"] == {"5": None}
    lines, err, status = server.end()
    assert (err, status) == ("jaxch5 clean: interrupted\n", 130)
    assert lines[0] == "2 kept, 1 relabelled, 1 dropped, 1 unsure (unchanged)"
    assert tree(pictures) == before

    words = shlex.split(lines[-1])
    assert words[:2] == ["jaxch5", "train"]
    config = parse(TrainOptions, words[2:], "train").settings()
    assert config.fit == from_toml(cleaned / "config.toml").fit
    data = load_data(config)
    names = [Path(name) for name in data.source.references]
    recorded = read_pictures(cleaned / "pictures.jsonl.gz")
    held_out = {
        pictures / name
        for name, valid in zip(recorded.references, recorded.held_out, strict=True)
        if valid
    }
    assert {names[item] for item in data.valid.items} == held_out - {pictures / "blue" / "1.jpg"}
    labels = {
        name: data.classes[label] for name, label in zip(names, data.source.labels, strict=True)
    }
    assert labels[pictures / "blue" / "0.jpg"] == "red"
    assert pictures / "blue" / "1.jpg" not in labels
    assert len(labels) == 39
    assert all(label == name.parent.name for name, label in labels.items() if name.name != "0.jpg")


def test_nothing_is_lost_when_the_server_is_killed(cleaned, serve):
    """An answer reported as saved is still there, and the page that was open can go on."""
    server = serve(cleaned)
    assert server.post("drop", 0).ok
    assert server.post("keep", 1).ok
    before = server.content
    server.kill()
    again = serve(cleaned)
    assert again.content["digest"] == before["digest"]
    assert again.content["answers"]["0"] == ["drop", None]
    assert again.content["answers"]["1"] == ["keep", None]
    assert again.content["seen"] == 2
    again.content = before
    assert again.post("unsure", 2).ok


def test_a_page_that_stays_open_means_the_same_classes_after_a_restart(cleaned, serve):
    """A class keeps its number in the page although the answer that added it was undone."""
    server = serve(cleaned)
    server.post("class", 0, new="green")
    server.post("undo")
    reply = server.post("class", 0, new="grey").json()
    before, classes = server.content, reply["classes"]
    server.kill()
    again = serve(cleaned)
    again.content = before
    assert again.post("class", 1, **{"class": classes.index("green")}).ok
    answers = [json.loads(line) for line in (cleaned / "answers.jsonl").open()]
    assert [answer.get("label") for answer in answers] == ["green", None, "grey", "green"]


def test_a_new_class_can_be_spelled_differently_once_it_is_undone(cleaned, serve):
    """Only classes of the set and of answers that were not undone are offered."""
    server = serve(cleaned)
    classes = server.content["classes"]
    for again in (False, True):
        if again:
            server.kill()
            server = serve(cleaned)
        assert [server.content["classes"][one] for one in server.content["offered"]] == classes
        for typed, saved in (("green Leaf", "green Leaf"), ("Green leaf", "green Leaf")):
            reply = server.post("class", 0, new=typed).json()
            assert [reply["classes"][one] for one in reply["offered"]] == [*classes, saved]
        server.post("undo")
        server.post("undo")
        reply = server.post("class", 0, new="Green leaf").json()
        assert [reply["classes"][one] for one in reply["offered"]] == [*classes, "Green leaf"]
        server.post("undo")
    answers = [json.loads(line).get("label") for line in (cleaned / "answers.jsonl").open()]
    assert answers == 2 * ["green Leaf", "green Leaf", None, None, "Green leaf", None]


def test_two_pages_do_not_answer_past_one_another(cleaned, serve):
    one = serve(cleaned)
    assert one.post("drop", 0).ok
    late = one.post("keep", 1, seen=0)
    assert late.status_code == 409
    assert late.json()["answers"]["0"] == ["drop", None]
    assert one.post("keep", 1, digest="another list").status_code == 410
    assert one.load()["answers"]["1"] is None


def test_two_processes_do_not_write_the_same_answers(cleaned, capsys):
    with locked(RunDir(cleaned)):
        status, _, err = called(capsys, cleaned, "--write")
    assert status == 1
    assert "is being written by process" in err


@pytest.mark.parametrize(
    "more",
    [
        {"suspects": [23]},
        {"suspects": [-1]},
        {"suspects": ["0"]},
        {"suspects": []},
        {"suspects": [True]},
        {"kind": "sell"},
        {"kind": "class"},
        {"kind": "class", "class": 2},
        {"kind": "class", "new": " "},
        {"kind": "class", "new": "a\nb"},
        {"kind": "class", "new": "\udcff"},
        {"kind": "class", "new": "x" * 201},
        {"kind": "undo"},
    ],
)
def test_what_is_no_answer_is_refused_and_not_saved(cleaned, in_process, more):
    reply = in_process(cleaned, {"kind": "keep", "suspects": [0]} | more)
    assert reply.status in (422,), reply
    assert (cleaned / "answers.jsonl").read_bytes() == b""


def test_the_run_of_the_suspects_is_found_from_any_folder(trained, tmp_path, capsys, monkeypatch):
    """The labels keep the run's split and settings; another set that was judged first is not used.

    If the run is gone, this is an error, not another split with default settings.
    """
    run, found = shutil.copytree(trained[0], tmp_path / "runs" / "first"), tmp_path / "found"
    found.mkdir()
    (found / "config.toml").write_text('[data]\npath = "/another/set"\n')
    monkeypatch.chdir(tmp_path / "runs")
    argv = ["first", "--out", str(found)]
    assert run_command(suspects, SuspectsOptions, "suspects", argv) == 0, capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    status, _, err = called(capsys, found, "--write")
    assert status == 0, err
    config = from_toml(found / "labels.toml")
    assert config.fit == from_toml(run / "config.toml").fit
    parts = [row.rpartition(",")[2] for row in (found / "labels.csv").read_text().splitlines()]
    assert parts.count("True") == read_pictures(run / "pictures.jsonl.gz").held_out.sum()

    run.rename(tmp_path / "moved")
    before = tree(found)
    status, _, err = called(capsys, found, "--write")
    assert status == 2
    assert f"{run}: the run that {found / 'suspects.json'} names is gone" in err
    assert f"jaxch5 suspects RUN --out {found}" in err
    assert tree(found) == before


@pytest.fixture
def in_process():
    """Provides a function that posts an answer without a server; errors become replies."""
    from jaxch5.errors import Jaxch5Error
    from jaxch5.results.answers import AnswerLog
    from jaxch5.results.cleaner import Cleaner, read_judged
    from jaxch5.util.loopback import Reply

    def post(folder, body):
        options = parse(CleanOptions, [str(folder)], "clean")
        source, rows, _ = set_of(options, RunDir(folder))
        items = {(row.image, row.label): item for item, row in rows.items()}
        with AnswerLog(folder / "answers.jsonl") as log:
            judged = read_judged(folder / "suspects.json")
            page = Cleaner("a", judged, source, items, log, dict, "none")
            try:
                return page.respond("/answer", {"digest": page.digest, "seen": log.lines} | body)
            except Jaxch5Error as error:
                return Reply(str(error).encode(), status=422)

    return post


def test_a_class_that_is_typed_may_be_new_or_one_that_is_known(cleaned, in_process):
    for typed, label in (("green", "green"), ("RED ", "red"), ("Green", "green")):
        reply = in_process(cleaned, {"kind": "class", "suspects": [0], "new": typed})
        said = json.loads(reply.content)
        assert said["classes"][said["answers"]["0"][1]] == label
    assert [json.loads(line)["label"] for line in (cleaned / "answers.jsonl").open()] == [
        "green",
        "red",
        "green",
    ]


def test_pictures_are_served_by_their_numbers_alone(cleaned, serve, pictures):
    """The server sends the pictures that the page shows, as JPEG or PNG, and no other file."""
    server = serve(cleaned)
    first = server.content["suspects"][0]
    assert first["nearest"]["label"][0] != first["image"]
    assert [one["part"] for one in first["twins"]] == ["valid"]
    reply = requests.get(f"{server.address}large/{first['image']}?a")
    assert reply.headers["Content-Type"] in ("image/jpeg", "image/png")
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    shown = len(server.content["names"])
    for path in ("large/-1", f"large/{shown}", "large/../../etc/passwd", "large//etc/passwd", "x"):
        assert requests.get(f"{server.address}{path}").status_code == 404, path


def test_a_twin_is_shown_once_whatever_is_wrong_with_its_group(cleaned, pictures, serve):
    """A group with two classes and both parts is in the list twice: as a conflict and as a leak."""
    judged = json.loads((cleaned / "suspects.json").read_text())
    (group,) = judged["near_duplicates"]
    judged["near_duplicates"].append(group | {"kind": "conflicts"})
    (cleaned / "suspects.json").write_text(json.dumps(judged))
    first, second = serve(cleaned).content["suspects"][:2]
    assert [one["image"] for one in first["twins"]] == [second["image"]]


def test_a_twin_that_is_listed_with_two_classes_is_shown_with_both(cleaned, serve):
    judged = json.loads((cleaned / "suspects.json").read_text())
    (group,) = judged["near_duplicates"]
    for name, value in {"images": group["images"][1], "labels": "blue", "parts": "train"}.items():
        group[name].append(value)
    group["labels"][1] = "red"
    (cleaned / "suspects.json").write_text(json.dumps(judged))
    shown = serve(cleaned).content["suspects"]
    (first,) = (one for one in shown if len(one["twins"]) > 1)
    assert sorted(one["label"] for one in first["twins"]) == ["blue", "red"]


def test_where_the_network_looks_is_what_attribution_says(cleaned, serve, trained, pictures):
    """The map is that of the predicted class; without a run, the page says why it has no maps."""
    server = serve(cleaned)
    assert server.content["no_looks"] == ""
    reply = requests.get(f"{server.address}looks/0")
    assert reply.ok, reply.text
    found = attribution(trained[1], pictures / "blue" / "0.jpg", "red")
    expected = 255 * overlay(found.picture, found.map)
    # A picture of 32 pixels is not scaled.
    got = np.asarray(Image.open(io.BytesIO(reply.content)), float)
    assert np.abs(got - expected).max() < 2
    shutil.rmtree(cleaned / "checkpoints")
    server.kill()
    assert serve(cleaned).content["no_looks"].startswith("these suspects do not belong to a run")


@pytest.fixture
def photos(tmp_path):
    """Provides suspect pictures: 16-bit, turned by EXIF, large, broken, and with hostile names."""
    root = tmp_path / "photos"
    for label in (EVIL.replace("/", ""), TURNED):
        (root / label).mkdir(parents=True)
    one, other = root / EVIL, root / TURNED
    deep = (np.arange(60 * 40).reshape(60, 40) * 27).astype(np.uint16)
    Image.fromarray(deep).save(one / "deep.tif")
    turned = Image.new("RGB", (80, 40), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(one / "turned.jpg", exif=exif)
    Image.new("RGB", (3000, 2000), "blue").save(other / "large.jpg")
    (other / "broken.jpg").write_bytes(b"Dear diary")
    (other / os.fsdecode(b"\xff<b>.png")).write_bytes((one / "turned.jpg").read_bytes())
    for number in range(4):
        Image.new("RGB", (40, 40), (number * 50, 0, 0)).save(one / f"{number}.png")
    suspects_of(
        tmp_path / "found",
        *((path, EVIL, TURNED) for path in sorted(one.iterdir())),
        *((path, TURNED, EVIL) for path in sorted(other.iterdir())),
    )
    return root, tmp_path / "found"


def test_pictures_of_every_kind_are_seen_as_a_person_would(photos, serve):
    root, folder = photos
    server = serve(folder, "--data.path", root)

    def seen(name):
        number = next(k for k, shown in enumerate(server.content["names"]) if name in shown)
        return requests.get(f"{server.address}large/{number}")

    def opened(name):
        return Image.open(io.BytesIO(seen(name).content))

    assert opened("turned").size == (40, 80)
    assert opened("deep").size == (40, 60)
    assert opened("large").size == (1024, 683)
    broken = seen("broken")
    assert broken.status_code == 422
    assert "is not a picture in a known format" in broken.text
    assert TURNED not in json.dumps(server.content, ensure_ascii=False)


def test_no_browser_and_no_page_are_needed_to_write(cleaned, capsys):
    status, out, err = called(capsys, cleaned, "--write", "--json")
    assert status == 0, err
    said = json.loads(out)
    assert said["pictures"] == 40
    assert said["command"] in err
    assert called(capsys, cleaned, "--write", "--port", "1")[0] == 2
    for name in ("labels.csv", "labels.toml"):
        text = (cleaned / name).read_text()
        (cleaned / name).write_text(f"{text}# mine\n")
    status, out, err = called(capsys, cleaned, "--write")
    assert status == 0, err
    for name in ("labels.csv", "labels.toml"):
        assert f"{name} did not match its record, so it may have been edited; it is repl" in out
        edited = cleaned / name.replace(".", "-edited.")
        assert edited.read_text() == (cleaned / name).read_text() + "# mine\n"


def test_suspects_that_are_not_in_the_set_any_more_are_counted(cleaned, pictures, serve):
    judged = json.loads((cleaned / "suspects.json").read_text())
    judged["suspects"][0]["image"] += ".gone"
    judged["suspects"][1]["label"] = "red"
    (cleaned / "suspects.json").write_text(json.dumps(judged))
    server = serve(cleaned)
    assert len(server.content["suspects"]) == 21
    assert server.said[0].startswith(
        "2 suspects are no longer in the set, or have another label now, and are left out; "
        f"to judge the current set, run jaxch5 suspects {cleaned}"
    )


def test_pictures_that_are_gone_or_new_are_counted(trained, pictures, tmp_path, capsys):
    folder = shutil.copytree(trained[0], tmp_path / "run")
    moved = shutil.copytree(pictures, tmp_path / "moved")
    (moved / "blue" / "3.jpg").unlink()
    shutil.copy(moved / "red" / "3.jpg", moved / "red" / "new.jpg")
    suspects_of(folder, (moved / "blue" / "0.jpg", "blue", "red"))
    status, out, err = called(capsys, folder, "--write", "--data.path", moved)
    assert status == 0, err
    assert out.splitlines()[:2] == [
        "labels.csv leaves out 1 picture of the run that could not be found",
        "labels.csv leaves out 1 picture that neither training nor validation used",
    ]
    assert len((folder / "labels.csv").read_text().splitlines()) == 40


def test_what_cannot_be_cleaned_says_why(trained, tmp_path, capsys):
    status, _, err = called(capsys, tmp_path / "none")
    assert status == 1
    assert "none: there is no such run; to list the runs in runs/, use jaxch5 runs" in err
    run = shutil.copytree(trained[0], tmp_path / "run")
    status, _, err = called(capsys, run)
    assert status == 1
    assert err.endswith(f"does not exist; create it with jaxch5 suspects {run}\n")
    (run / "suspects.json").write_text('{"format": 2}')
    assert "cannot be read" in called(capsys, run)[2]
    suspects_of(tmp_path / "found", ("image 000000007", "1", "7"))
    status, _, err = called(capsys, tmp_path / "found")
    assert status == 2
    assert "name them with --data.path" in err
    suspects_of(run, ("image 000000007", "1", "7"))
    (run / "config.toml").write_text("")
    status, _, err = called(capsys, run)
    assert status == 2
    assert "not separate files" in err
    suspects_of(run, ("a", "blue", "red"))
    shutil.copy(trained[0] / "config.toml", run)
    status, _, err = called(capsys, run, "--fit.lr", "1")
    assert status == 2
    assert err.startswith("jaxch5 clean: fit.lr: a set is cleaned with ")


@pytest.mark.parametrize(
    "words",
    [
        ("--data.pattern", r"(.+)_\d+\.png"),
        ("--data.split", "random", "--data.valid-fraction", "0.4", "--data.stratify"),
        ("--data.train", "learn", "--data.valid", "hold"),
        ("--data.on-bad", "skip", "--data.range", "4095"),
        ("--data.path", "it's mine.csv", "--data.image-column", "file", "--data.root", "/"),
        ("--data.path", "a.csv", "--data.label-column", "breed", "--data.split-column", "fold"),
        ("--data.path", "a.tsv", "--data.split", "given"),
        ("--data.archive", "a b.zip", "--data.sha256", "0" * 64),
    ],
)
def test_the_next_settings_take_the_table_whatever_the_run_was_trained_on(words, tmp_path):
    """All settings except those of the old data stay, and the table's own split is used."""
    path = () if words[0] in ("--data.path", "--data.archive") else ("--data.path", str(tmp_path))
    old = parse(TrainOptions, [*path, *words, "--data.batch-size", "2"], "train").settings()
    (tmp_path / "config.toml").write_text(to_toml(old))
    labels = tmp_path / "labels.csv"
    changed = settings_of(from_toml(tmp_path / "config.toml", recorded=True), labels)
    (tmp_path / "labels.toml").write_text(to_toml(changed))
    argv = ["--config", str(tmp_path / "labels.toml")]
    new = parse(TrainOptions, argv, "train").settings()
    assert new.data.path == labels
    assert new.data.archive is None
    assert (new.data.image_column, new.data.label_column) == ("image", "label")
    assert new.data.split in ("auto", "given")
    assert new.data.split_column == "is_valid"
    assert new.model_dump(exclude={"data"}) == old.model_dump(exclude={"data"})
    rows = [
        Row(str(tmp_path / f"{number}.png"), "ab"[number % 2], number > 5) for number in range(8)
    ]
    for row in rows:
        Image.new("RGB", (20, 20)).save(row.image)
    write_labels(labels, corrected(rows, {}), None)
    assert load_data(new).valid.items.tolist() == [6, 7]


def test_what_suspects_finds_before_any_run_is_put_right(
    trained, pictures, in_process, tmp_path, capsys
):
    """Once every suspect is answered correctly, all labels are true and the split is unchanged."""
    table = ["image,label"]
    for name in ("blue", "red"):
        for number in range(20):
            label = "blue" if name == "red" and number < 3 else name
            table.append(f"{pictures / name / f'{number}.jpg'},{label}")
    (tmp_path / "wrong.csv").write_text("\n".join(table))
    found = tmp_path / "found"
    argv = ["--data.path", str(tmp_path / "wrong.csv"), "--model.weights", str(trained[0])]
    argv += ["--data.presize", "36", "--data.size", "32", "--data.batch-size", "8"]
    argv += ["--out", str(found)]
    assert run_command(suspects, SuspectsOptions, "suspects", argv) == 0, capsys.readouterr().err
    judged = json.loads((found / "suspects.json").read_text())
    for place, suspect in enumerate(judged["suspects"]):
        right = judged["classes"].index(Path(suspect["image"]).parent.name)
        assert (
            in_process(found, {"kind": "class", "suspects": [place], "class": right}).status == 200
        )
    status, out, err = called(capsys, found, "--write")
    assert status == 0, err
    source = from_csv(found / "labels.csv")
    assert len(source) == 40
    for item, reference in enumerate(source.references):
        assert source.classes[source.labels[item]] == Path(reference).parent.name
    argv = [*shlex.split(out.splitlines()[-1])[2:]]
    now, before = (
        load_data(parse(TrainOptions, words, "train").settings())
        for words in (argv, ["--data.path", str(tmp_path / "wrong.csv"), "--data.batch-size", "8"])
    )
    held_out = [{one.source.references[item] for item in one.valid.items} for one in (now, before)]
    assert held_out[0] == held_out[1]


@pytest.mark.slow
def test_a_run_on_corrected_labels_says_what_changed(cleaned, serve, tmp_path, capsys):
    """The report counts the changes and compares both networks on the corrected labels.

    If the earlier run's checkpoints are gone when the labels are used again, the report says that
    the networks are not compared.
    """
    server = serve(cleaned)
    red = server.content["classes"].index("red")
    recorded = read_pictures(cleaned / "pictures.jsonl.gz")
    valid = {
        name for name, part in zip(recorded.references, recorded.held_out, strict=True) if part
    }
    names = [server.content["names"][one["image"]] for one in server.content["suspects"][:6]]
    for number, name in enumerate(names):
        assert name.startswith("blue/")
        assert server.post("class", number, **{"class": red}).ok
    moved = sum(name in valid for name in names)
    words = shlex.split(server.end()[0][-1])[2:]
    out = tmp_path / "second"
    argv = [*words, "--workdir", str(out)]
    assert run_command(train, TrainOptions, "train", argv) == 0, capsys.readouterr().err
    page = (out / "report.html").read_text()
    counts = f"6 relabelled ({moved} of them for validation), 0 dropped (0 of them for validation)"
    assert counts in page
    assert "<bdi>blue</bdi> → <bdi>red</bdi> 6" in page
    assert "On 8 validation pictures with the corrected labels" in page
    assert json.loads((out / "cleaned.json").read_text())["run"] == str(cleaned)

    shutil.rmtree(cleaned / "checkpoints")
    (cleaned / "config.toml").unlink()
    third = tmp_path / "third"
    argv = ["--config", str(out / "config.toml"), "--workdir", str(third)]
    assert run_command(train, TrainOptions, "train", argv) == 0, capsys.readouterr().err
    page = (third / "report.html").read_text()
    assert "The networks before and after are not compared" in page


@pytest.fixture
def page(serve, new_tab):
    """Provides a function that opens the page of a folder's suspects in a browser."""

    def open_page(*argv, width=1280, **context):
        server = serve(*argv)
        tab = new_tab(width, **context)
        tab.goto(server.address)
        tab.locator("#progress").filter(has_text="answered").wait_for()
        return server, tab

    return open_page


def saved(tab, text):
    """Waits until the page shows `text` as progress and reports the answers as saved or undone."""
    tab.locator("#progress").filter(has_text=text).wait_for()
    tab.locator("#saved").get_by_text(re.compile("^(saved|undone)$")).wait_for()


def kinds(folder):
    lines = (folder / "answers.jsonl").read_text().splitlines()
    return [json.loads(line)["kind"] for line in lines]


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(375, "dark"), (1280, "light")])
def test_all_is_done_by_keys_at_any_width(cleaned, page, width, scheme):
    server, tab = page(cleaned, width=width, color_scheme=scheme)
    tab.locator("#picture img").wait_for()
    facts = " ".join(tab.inner_text("#facts").split())
    assert "labelled blue 5.0 % looks like red 90.0 %" in facts
    assert "nearest of blue" in tab.inner_text("#facts")
    assert "nearly the same picture" in tab.inner_text("#facts")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate(FAINT, True) == []
    press = tab.keyboard.press
    for key in ("k", "Enter", "o", "d", "n", "Space"):
        press(key)
    saved(tab, "6 of 23 answered: 1 kept, 2 relabelled, 1 dropped, 2 not sure")
    press("u")
    press("Control+z")
    saved(tab, "4 of 23 answered: 1 kept, 2 relabelled, 1 dropped, 0 not sure")
    assert "5 of 23" in tab.inner_text("#answer")

    press("t")
    tab.keyboard.type("re")
    assert tab.locator("#found li").all_inner_texts() == ["red", "new class: re"]
    press("Enter")
    press("t")
    tab.keyboard.type("green")
    # A class that did not exist needs a second Enter.
    press("Enter")
    assert tab.locator("#classes").is_visible()
    press("Enter")
    saved(tab, "6 of 23 answered: 1 kept, 4 relabelled, 1 dropped, 0 not sure")
    press("ArrowLeft")
    tab.locator("#answer").get_by_text("green").wait_for()

    press("g")
    press("Home")
    press("Shift+End")
    assert tab.locator(".cell[aria-selected=true]").count() > 5
    press("d")
    saved(tab, "23 of 23 answered: 0 kept, 0 relabelled, 23 dropped, 0 not sure")
    press("u")
    saved(tab, "6 of 23 answered")
    press("j")
    assert tab.locator(".cell[aria-selected=true]").count() == 1
    press("g")
    assert "7 of 23" in tab.inner_text("#answer")
    press("?")
    tab.locator("#help").wait_for()
    press("Escape")
    press("l")
    tab.get_by_alt_text("where the network looks for red").wait_for()
    press("l")

    press("f")
    tab.locator("#command").get_by_text("jaxch5 train").wait_for()
    assert "green is a new class" in tab.inner_text("#lines")
    assert "labels.csv" in tab.inner_text("#lines")
    press("Escape")
    assert (cleaned / "labels.csv").read_text().count("green") == 1
    tab.reload()
    # The page opens at the first suspect without an answer.
    tab.locator("#answer").get_by_text("7 of 23").wait_for()
    assert tab.complaints == []
    assert [url for url in tab.requests if not url.startswith((server.address, "data:"))] == []


@pytest.mark.browser
def test_buttons_do_the_same_and_are_not_pressed_again_by_a_key(cleaned, page):
    _, tab = page(cleaned, width=375, has_touch=True)
    tab.get_by_role("button", name="Keep").tap()
    tab.get_by_role("button", name="Other: red").tap()
    saved(tab, "2 of 23 answered: 1 kept, 1 relabelled")
    tab.get_by_role("button", name="Undo").tap()
    saved(tab, "1 of 23 answered")
    tab.keyboard.press("Space")
    saved(tab, "1 kept, 0 relabelled, 0 dropped, 1 not sure")
    heights = [box.bounding_box()["height"] for box in tab.locator("footer button").all()]
    assert min(heights) >= 44


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_pressed_button_is_legible_under_the_pointer(cleaned, page, scheme):
    _, tab = page(cleaned, color_scheme=scheme)
    grid = tab.locator("[data-do=grid]")
    grid.click()
    tab.locator("[data-do=grid][aria-pressed=true]:hover").wait_for()
    front, behind = (
        grid.evaluate(f"button => getComputedStyle(button).{name}")
        for name in ("color", "backgroundColor")
    )
    assert front != behind


@pytest.mark.browser
def test_a_pair_of_classes_is_looked_at_alone(cleaned, page):
    _, tab = page(cleaned)
    tab.keyboard.press("p")
    tab.locator("#filter").select_option(label="red → blue (3)")
    assert "1 of 3" in tab.inner_text("#answer")
    for _ in range(3):
        tab.keyboard.press("k")
    saved(tab, "3 of 23 answered: 3 kept")


@pytest.mark.browser
def test_hostile_names_are_text_and_a_broken_picture_says_so(photos, page):
    root, folder = photos
    _, tab = page(folder, "--data.path", root)
    seen = ""
    for _ in range(9):
        if "broken.jpg" in tab.inner_text("#facts"):
            tab.locator("#picture .broken").wait_for()
        seen += tab.inner_text("main")
        tab.keyboard.press("ArrowRight")
    assert EVIL in seen
    assert "right\\u202eto left" in seen
    assert "is not a picture in a known format" in seen
    tab.keyboard.press("g")
    tab.keyboard.press("t")
    assert EVIL in tab.inner_text("#found")
    # The browser itself reports that the request for a picture was answered with an error.
    assert [text for text in tab.complaints if "422" not in text] == []


@pytest.mark.browser
def test_ten_thousand_suspects_are_a_page_of_a_few(tmp_path, page, pictures):
    """The last suspect is reached within seconds, and the page holds few elements at a time."""
    root = tmp_path / "photos"
    for label in "ab":
        (root / label).mkdir(parents=True)
    files = [root / "ab"[number % 2] / f"{number}.jpg" for number in range(10_000)]
    for file in files:
        os.link(shutil.copy(pictures / "red" / "0.jpg", tmp_path / "one.jpg"), file)
    suspects_of(
        tmp_path / "found",
        *((file, file.parent.name, "ba"["ab".index(file.parent.name)]) for file in files),
    )
    _, tab = page(tmp_path / "found", "--data.path", root)
    began = time.monotonic()
    tab.keyboard.press("g")
    tab.locator("#cell-0").wait_for()
    tab.keyboard.press("End")
    tab.locator("#cell-9999").wait_for()
    tab.keyboard.press("d")
    saved(tab, "1 of 10000 answered")
    assert time.monotonic() - began < 10
    assert tab.evaluate("document.querySelectorAll('*').length") < 1000


@pytest.mark.browser
def test_answers_wait_in_the_page_while_the_server_is_gone(cleaned, serve, new_tab):
    server = serve(cleaned)
    tab = new_tab(1280)
    tab.goto(server.address)
    tab.locator("#progress").filter(has_text="0 of 23 answered").wait_for()
    tab.keyboard.press("k")
    saved(tab, "1 of 23 answered")
    server.kill()
    tab.keyboard.press("d")
    tab.locator("#saved").filter(has_text="NOT saved").wait_for()
    tab.keyboard.press("k")
    port = server.address.split(":")[-1].strip("/")
    command = [sys.executable, "-m", "jaxch5.clean", str(cleaned), "--port", port]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as again:
        try:
            saved(tab, "3 of 23 answered: 2 kept, 0 relabelled, 1 dropped")
        finally:
            again.kill()
    assert kinds(cleaned) == ["keep", "drop", "keep"]


@pytest.mark.browser
def test_an_open_page_shows_the_pictures_of_a_new_list(cleaned, pictures, page):
    """An answer for the old list is not taken for the new one, whose pictures the grid shows."""
    server, tab = page(cleaned)
    tab.keyboard.press("g")
    tab.locator("#cell-0").wait_for()
    server.kill()
    judged = json.loads((cleaned / "suspects.json").read_text())
    judged["suspects"].reverse()
    (cleaned / "suspects.json").write_text(json.dumps(judged))
    port = server.address.split(":")[-1].strip("/")
    command = [sys.executable, "-m", "jaxch5.clean", str(cleaned), "--port", port]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as again:
        try:
            tab.keyboard.press("d")
            tab.locator("#saved").filter(has_text="the list of suspects is a new one").wait_for()
            assert "0 of 23 answered" in tab.inner_text("#progress")
            assert tab.inner_text("#cell-0").startswith("red\nsees blue")
            tab.keyboard.press("Home")
            tab.keyboard.press("d")
            saved(tab, "1 of 23 answered")
        finally:
            again.kill()
    (answer,) = map(json.loads, (cleaned / "answers.jsonl").open())
    assert answer["pictures"] == [[str(pictures / "red" / "2.jpg"), "red"]]


@pytest.mark.browser
def test_a_refused_answer_takes_no_other_with_it(cleaned, page):
    """The page goes on saying what was refused after the answers behind it are saved."""
    _, tab = page(cleaned)
    sent = "while (sending) await sleep(20)"
    tab.evaluate(f"async () => {{ DO.undo(), DO.keep(), DO.drop(); {sent} }}")
    assert tab.inner_text("#saved") == "there is no answer to undo"
    assert "2 of 23 answered" in tab.inner_text("#progress")
    assert kinds(cleaned) == ["keep", "drop"]
    tab.keyboard.press("k")
    saved(tab, "3 of 23 answered")
    refused = "tell({ kind: 'class', new: 'x'.repeat(201) })"
    tab.evaluate(f"async () => {{ {refused}, DO.unsure(); {sent} }}")
    assert tab.inner_text("#saved").startswith("a class name needs 1 to 200")
    assert "4 of 23 answered: 2 kept, 0 relabelled" in tab.inner_text("#progress")
    assert kinds(cleaned) == ["keep", "drop", "keep", "unsure"]


@pytest.mark.browser
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs a limit of another process")
def test_answers_wait_in_the_page_while_they_cannot_be_written(cleaned, page):
    """A limit on the size of files fails a write as a full disk does."""
    server, tab = page(cleaned)
    tab.keyboard.press("k")
    saved(tab, "1 of 23 answered")
    _, most = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (1, most))
    tab.evaluate("DO.drop(), DO.keep()")
    tab.locator("#saved").filter(has_text="NOT saved: 2 answers; ").wait_for()
    assert "answers.jsonl: cannot be written" in tab.inner_text("#saved")
    assert kinds(cleaned) == ["keep"]
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (most, most))
    saved(tab, "3 of 23 answered: 2 kept, 0 relabelled, 1 dropped")
    assert kinds(cleaned) == ["keep", "drop", "keep"]


@pytest.mark.browser
def test_only_finish_writes_the_labels(cleaned, page):
    """A page on which all is answered says so when it is opened, and when `J` is pressed."""
    _, tab = page(cleaned)
    for key in ("p", "g", "Home", "Shift+End", "k"):
        if key == "p":
            tab.locator("#filter").select_option(label="red → blue (3)")
        else:
            tab.keyboard.press(key)
    saved(tab, "3 of 23 answered")
    tab.keyboard.press("j")
    tab.locator("#saved").get_by_text("all of this pair are answered").wait_for()
    tab.locator("#filter").select_option(label="all pairs (23)")
    for key in ("Home", "Shift+End", "k"):
        tab.keyboard.press(key)
    saved(tab, "23 of 23 answered")
    tab.reload()
    tab.locator("#saved").get_by_text("all are answered: F finishes").wait_for()
    assert not (cleaned / "labels.csv").exists()
    assert not tab.locator("#finish").is_visible()
    tab.keyboard.press("f")
    tab.locator("#command").get_by_text("jaxch5 train").wait_for()
    assert (cleaned / "labels.csv").exists()


@pytest.mark.browser
def test_two_tabs_neither_lose_a_class_nor_undo_one_anothers_answers(cleaned, page, new_tab):
    """Each tab is told of the other's answers only when it sends one of its own."""

    def add(tab, name):
        tab.keyboard.press("t")
        tab.keyboard.type(name)
        tab.keyboard.press("Enter")
        tab.keyboard.press("Enter")

    server, one = page(cleaned)
    other = new_tab(1280)
    other.goto(server.address)
    other.locator("#progress").filter(has_text="0 of 23 answered").wait_for()
    add(one, "green")
    saved(one, "1 of 23 answered")
    add(other, "grey")
    saved(other, "1 of 23 answered")
    before = (cleaned / "answers.jsonl").read_text()
    labels = [json.loads(line)["label"] for line in before.splitlines()]
    assert labels == ["green", "grey"]
    one.keyboard.press("u")
    one.locator("#saved").get_by_text(DOUBT).wait_for()
    assert (cleaned / "answers.jsonl").read_text() == before
    other.keyboard.press("d")
    saved(other, "2 of 23 answered")
    # An answer that follows at once does not hide that the undo was not carried out.
    one.evaluate("DO.undo(), DO.keep(), DO.previous()")
    one.locator("#answer .keep:not(.pending)").wait_for()
    assert one.inner_text("#saved") == DOUBT
    assert kinds(cleaned) == ["class", "class", "drop", "keep"]


@pytest.mark.browser
def test_an_undo_is_not_said_to_be_without_effect_if_only_the_reply_was_lost(cleaned, page):
    _, tab = page(cleaned)
    tab.keyboard.press("k")
    saved(tab, "1 of 23 answered")
    tab.route("**/answer", lambda route: (route.fetch(), route.abort()), times=1)
    tab.keyboard.press("u")
    tab.locator("#saved").get_by_text(DOUBT).wait_for()
    assert kinds(cleaned) == ["keep", "undo"]
    assert "0 of 23 answered" in tab.inner_text("#progress")
