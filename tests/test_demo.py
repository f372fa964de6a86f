"""The page answers this machine alone, connects to no other, and shows names as text."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image

from jaxch5.cli import run
from jaxch5.data.sources import download
from jaxch5.demo import (
    HEIGHT,
    LOOKED,
    NONE_OF_THESE,
    DemoOptions,
    answer,
    demo,
    examples,
    known,
    listening,
    look,
    page,
)
from jaxch5.metrics import wilson_interval
from jaxch5.results.artifacts import FORMATS
from jaxch5.results.predictor import Predictor, load_learner
from jaxch5.task import Task, one_vs_rest
from jaxch5.util.files import write_file

EVIL = "<script>alert(1)</script>"
EVIL_FILE = "<img src=x onerror=alert(1)>${alert(1)}.safetensors"
# Runs the command, and prints every outside address that it looks up or connects to.
WATCHED = """
import ipaddress, sys

def watch(event, arguments):
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    if host not in (None, "localhost", "127.0.0.1", "::1"):
        print("asked for", host, file=sys.stderr)

sys.addaudithook(watch)
from jaxch5.demo import main
sys.exit(main())
"""
with_gradio = pytest.mark.skipif(find_spec("gradio") is None, reason="Gradio is not installed")


@pytest.fixture(scope="module")
def picture(pictures):
    return pictures / "red" / "0.jpg"


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    path = tmp_path_factory.mktemp("broken") / "broken.jpg"
    path.write_text("Dear diary")
    return path


@pytest.fixture(scope="module")
def server(trained, tmp_path_factory):
    """Provides the process of a demo with hostile names, its `address` and `temporary` folder."""
    folder = tmp_path_factory.mktemp("demo")
    given = trained[1].predictor()
    evil = Predictor(given.model, given.variables, (EVIL, "red"), given.normalization, given.about)
    write_file(folder / EVIL_FILE, FORMATS["learner"](evil))
    (folder / "temporary").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", WATCHED, str(folder / EVIL_FILE), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if "GRADIO" not in name}
        | {"TMPDIR": str(folder / "temporary")},
    )
    line = process.stdout.readline()
    process.address = re.search(r"http://\S+", line)[0] if line else process.stderr.read()
    process.temporary = folder / "temporary"
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def opened(new_tab, server):
    """Provides a function that opens the page in a tab."""

    def open_page(width=1200):
        tab = new_tab(width)
        tab.goto(server.address)
        return tab

    return open_page


def drop(tab, file):
    tab.locator("input[type=file]").set_input_files(file)


def test_an_answer_is_what_predict_says(trained, picture, broken):
    """The likeliest class comes first; a bad picture gives a reason; no picture gives nothing."""
    predictor = load_learner(trained[0])
    probabilities, message = answer(predictor, str(picture))
    expected = predictor.predict(picture)
    assert message == ""
    assert next(iter(probabilities)) == expected.label
    assert sorted(probabilities) == ["blue", "red"]
    assert probabilities["red"] == pytest.approx(float(expected.probabilities[1]))
    assert answer(predictor, str(broken)) == ({}, "picture: is not a picture in a known format")
    assert "No such file" in answer(predictor, str(broken.with_name("none.jpg")))[1]
    assert answer(predictor, None) == ({}, "")


def test_an_answer_says_how_a_picture_of_more_than_8_bits_was_read(trained, tmp_path):
    predictor, file = load_learner(trained[0]), tmp_path / "deep.png"
    values = np.random.default_rng(0).integers(0, 4000, (40, 40)).astype(np.uint16)
    Image.fromarray(values).save(file)
    likely, message = answer(predictor, str(file))
    expected = predictor.reading(range="auto integers 0,4095").predict(file)
    assert likely["red"] == pytest.approx(float(expected.probabilities[1]))
    assert "integers from 0 to 4,095 are read as black to white" in message
    as_read = look(predictor.reading(range="auto integers 0,4095"), str(file))
    np.testing.assert_array_equal(look(predictor, str(file)), as_read)


def of_task(given, task):
    rest = given.classes, given.normalization, given.about, task
    return Predictor(given.model, given.variables, *rest)


def test_it_says_what_the_classifier_knows(trained, tmp_path):
    """The lines about a run give its accuracy if the classifier answers as it did when scored.

    The lines about a learner's file give no accuracy. Both have a line about 'none of these'. The
    accuracy is read together with the weights, since a run that is still training may have other
    checkpoints later.
    """
    predictor, run = load_learner(trained[0]), tmp_path / "run"
    shutil.copytree(trained[0], run, ignore=shutil.ignore_patterns("checkpoints"))
    names, accuracy, limits = known(run, predictor)
    assert names == "The classifier knows 2 classes: blue, red."
    # How often a network of one epoch is right depends on the processor.
    share = trained[1].record["accuracy"]
    low, high = wilson_interval(round(8 * share), 8)
    assert accuracy == (
        f"It was right on {100 * share:.1f} % of 8 validation pictures; Wilson's 95 % interval is "
        f"{100 * low:.1f} % to {100 * high:.1f} %."
    )
    assert "'none of these?' if all other classes together are more probable" in limits
    assert len(known(run, predictor, scored=False)) == 2
    assert len(known(run, predictor.with_variables(predictor.variables))) == 2
    said = known(trained[0] / "file", of_task(predictor, one_vs_rest(0.8)))
    assert said[1] == "If no class is at least 80 % probable, it answers 'none of these'."


def test_a_picture_that_no_class_has_half_of_may_be_none_of_these(trained, picture):
    predictor = trained[1].predictor()
    unsure = of_task(predictor, Task("unsure", None, lambda logits: 0 * logits + 0.4))
    likely, message = answer(unsure, str(picture))
    assert likely
    assert message == "blue, the most probable class, has 40 %: less than the others together"


def test_examples_are_pictures_that_were_validated_one_of_each_class_first(trained, tmp_path):
    path, learn = trained
    files = examples(path, tmp_path)
    assert len(files) == 8
    source, held_out = learn.data.source, learn.data.valid.items
    contents = {source.read(int(item)): source.labels[item] for item in held_out}
    labels = [contents[Path(file).read_bytes()] for file in files]
    assert sorted(labels[:2]) == [0, 1]
    assert examples(tmp_path, tmp_path) == []


FAR = "http://127.0.0.1:9/evil"


@pytest.mark.parametrize(
    ("place", "count"),
    [
        ('path = "TABLE"', 8),
        ('path = "TABLE_WITH_A_LINK"', 0),
        (f'archive = "{FAR}.zip"', 0),
        # What is to be unpacked may be endless.
        ('archive = "/dev/zero"', 0),
        ('path = "memory://evil"', 0),
    ],
)
def test_examples_fetch_nothing_that_a_run_names(
    place, count, trained, pictures, tmp_path, monkeypatch
):
    """A table on this machine may hold links, which someone else has chosen."""
    run, asked = tmp_path / "run", []
    shutil.copytree(trained[0], run, ignore=shutil.ignore_patterns("checkpoints"))
    rows = [f"{file},{file.parent.name}" for file in sorted(pictures.glob("*/*.jpg"))]
    rows = [row.removeprefix(f"{pictures}/") for row in rows]
    tables = {"TABLE_WITH_A_LINK": [*rows, f"{FAR}.jpg,red"], "TABLE": rows}
    config = run / "config.toml"
    text = re.sub('path = ".*"', place, config.read_text())
    for name, lines in tables.items():
        table = tmp_path / f"{name}.csv"
        table.write_text("\n".join(["image,label", *lines]))
        text = text.replace(f'"{name}"', f'"{table}"\nroot = "{pictures}"')
    config.write_text(text)
    monkeypatch.setattr(download, "fetch", lambda address, file: asked.append(address))
    assert len(examples(run, tmp_path)) == count
    assert asked == []


@with_gradio
def test_a_page_has_examples_and_what_is_known_as_text(picture):
    from starlette.testclient import TestClient

    made = page("run", lambda path: ({}, ""), known=[EVIL], examples=[str(picture)])
    config = TestClient(made, base_url="http://127.0.0.1").get("/config").text
    assert "<script>alert(1)" in json.loads(config)["components"][1]["props"]["value"]
    assert NONE_OF_THESE not in config
    assert "0.jpg" in config


def test_without_gradio_one_line_says_what_to_install(trained, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert run(demo, DemoOptions, "jaxch5 demo", [str(trained[0])]) == 1
    err = capsys.readouterr().err
    needs = "the page needs Gradio: python -m pip install -e '.[demo]' in jaxch5's folder"
    assert err == f"jaxch5 demo: {needs}\n"


def test_a_taken_port_is_one_line(trained, capsys):
    with listening(0) as taken:
        port = taken.getsockname()[1]
        argv = [str(trained[0]), "--port", str(port)]
        assert run(demo, DemoOptions, "jaxch5 demo", argv) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"jaxch5 demo: port = {port}: is not available (Address already")
    assert err.count("\n") == 1


@with_gradio
def test_only_this_machine_is_answered_and_the_browser_may_ask_no_other(server):
    """A request that names another host is refused, so no web page can get in by DNS rebinding."""
    assert server.address.startswith("http://127.0.0.1:")
    good = requests.get(server.address)
    assert good.ok
    assert "default-src 'self' data: blob:;" in good.headers["content-security-policy"]
    assert requests.get(server.address, headers={"Host": "elsewhere.example"}).status_code == 400


@with_gradio
@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 1200])
def test_a_dropped_picture_is_answered_and_nobody_else_is_asked(opened, server, picture, width):
    tab = opened(width)
    drop(tab, picture)
    label = tab.get_by_test_id("label-output-value")
    label.wait_for()
    assert label.inner_text() in (EVIL, "red")
    text = tab.inner_text("body")
    assert EVIL in text
    assert tab.title() == EVIL_FILE
    assert "%" in text
    looked = tab.locator("img[src$='.webp']")
    looked.wait_for()
    assert looked.evaluate("image => image.naturalHeight") == HEIGHT
    assert LOOKED in tab.inner_text("body")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.complaints == []
    elsewhere = [url for url in tab.requests if not url.startswith((server.address, "data:"))]
    assert elsewhere == []


@with_gradio
@pytest.mark.browser
def test_a_broken_picture_is_a_sentence_and_the_next_is_answered(opened, picture, broken):
    tab = opened()
    drop(tab, broken)
    message = tab.get_by_label("No answer")
    message.wait_for()
    assert message.input_value() == "picture: is not a picture in a known format"
    assert not tab.get_by_text(LOOKED).is_visible()
    tab.get_by_label("Remove Image").click()
    message.wait_for(state="hidden")
    drop(tab, picture)
    tab.get_by_test_id("label-output-value").wait_for()


# This test comes last, because it ends the server.


@with_gradio
def test_an_interrupt_ends_it_and_dropped_pictures_are_gone(server):
    """On an interrupt, the server deletes uploads; it never connected to another machine."""
    files = {"files": ("a.jpg", b"a secret")}
    assert requests.post(f"{server.address}gradio_api/upload", files=files).ok
    assert [path for path in server.temporary.rglob("*") if path.is_file()]
    server.send_signal(signal.SIGINT)
    _, err = server.communicate(timeout=20)
    assert err == "jaxch5 demo: interrupted\n"
    assert server.returncode == 130
    assert not [path for path in Path(server.temporary).rglob("*") if path.is_file()]
