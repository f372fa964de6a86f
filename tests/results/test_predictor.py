"""A classifier loaded from a run or a file, without its data, predicts as it did in training."""

import io
import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxch5.cli import run as run_command
from jaxch5.errors import CheckpointError, ConfigError, DataError, WeightsError
from jaxch5.export import ExportOptions, export
from jaxch5.models.spec import Normalization
from jaxch5.predict import PredictOptions, predict
from jaxch5.results.artifacts import write_artifact
from jaxch5.results.predictor import BATCH, About, Predictor, load_learner
from jaxch5.task import SOFTMAX
from jaxch5.util.files import write_file


@pytest.fixture(scope="module")
def held_out(trained, pictures):
    """Provides the paths of the validation pictures, in their order."""
    _, learn = trained
    return [str(pictures / learn.data.source.references[item]) for item in learn.data.valid.items]


def test_it_gives_the_learners_own_probabilities(trained, held_out):
    path, learn = trained
    expected, _ = learn.get_preds()
    predictions = list(load_learner(path).predict_many(held_out))
    given = np.stack([prediction.probabilities for prediction in predictions])
    np.testing.assert_allclose(given, expected, atol=1e-5)
    assert [prediction.index for prediction in predictions] == expected.argmax(1).tolist()
    assert {prediction.label for prediction in predictions} <= {"blue", "red"}


def test_many_pictures_take_one_program_and_a_bad_one_its_own_place(trained, held_out, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_text("Dear diary")
    names = (held_out * 12)[: 2 * BATCH + 5]
    names[3], names[-1] = str(broken), str(tmp_path / "none.jpg")
    predictor = load_learner(trained[0])
    predictions = list(predictor.predict_many(names))
    bad = [place for place, given in enumerate(predictions) if isinstance(given, DataError)]
    assert bad == [3, len(names) - 1]
    assert "broken.jpg: is not a picture" in str(predictions[3])
    assert "none.jpg: No such file" in str(predictions[-1])
    again = next(predictor.predict_many(names[4:6]))
    np.testing.assert_allclose(again.probabilities, predictions[4].probabilities, atol=1e-6)
    assert len(predictor._compiled.programs) == 1


def test_a_picture_that_comes_alone_is_computed_alone(trained, held_out):
    """`predict_many` computes a single picture with the program of `predict`, not as a batch."""
    predictor = load_learner(trained[0])
    (prediction,) = predictor.predict_many(held_out[:1])
    again = predictor.predict(held_out[0])
    np.testing.assert_array_equal(prediction.probabilities, again.probabilities)
    assert len(predictor._compiled.programs) == 1


def test_a_path_its_content_and_its_pixels_are_the_same_picture(trained, held_out, tmp_path):
    predictor = load_learner(trained[0])
    png = tmp_path / "a.png"
    pixels = np.asarray(Image.open(held_out[0]).convert("RGB"))
    Image.fromarray(pixels).save(png)
    given = [predictor.predict(form) for form in (png, str(png), png.read_bytes(), pixels)]
    for prediction in given:
        np.testing.assert_array_equal(prediction.probabilities, given[0].probabilities)
    with pytest.raises(DataError, match=r"is float64 \[2, 2\]; should be uint8"):
        predictor.predict(np.zeros((2, 2)))


class Shades(nn.Module):
    """A network with a class for each shade of red.

    It is so small that many predictions take almost no time.
    """

    def __call__(self, x, train):
        return -jnp.abs(x.mean((1, 2))[:, :1] - jnp.linspace(0, 1, 5))


@pytest.fixture(scope="module")
def shades():
    plain = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    about = About("Shades", "", "fp32", presize=12, size=8)
    return Predictor(Shades(), {}, tuple("abcde"), plain, about)


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def in_a_buffer(pixels):
    """Returns pixels as a camera does: in a buffer that the next picture overwrites."""
    in_a_buffer.buffer[:] = pixels
    return in_a_buffer.buffer


in_a_buffer.buffer = np.zeros((9, 11, 3), np.uint8)


GOOD = {
    "pixels": lambda pixels: pixels,
    "a JAX array": jnp.asarray,
    "lists": lambda pixels: pixels.tolist(),
    "content": png,
    "a view of it": lambda pixels: memoryview(png(pixels)),
    "an open file": lambda pixels: io.BytesIO(png(pixels)),
    "Pillow's": Image.fromarray,
    "Pillow's, opened": lambda pixels: Image.open(io.BytesIO(png(pixels))),
    "grey": lambda pixels: pixels[..., 0],
    "a buffer": in_a_buffer,
}
BAD = (None, 7, "", "no/such.jpg", "a\0b", "https://host/a.jpg", b"", b"GIF89a", [], {}, 0.5)
BAD += (np.zeros((0, 5, 3), np.uint8), np.full((4, 4), np.nan), io.StringIO("text"), Path("/"))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(sorted(GOOD)), st.integers(0, 255)),
            st.sampled_from(range(len(BAD))),
        ),
        max_size=3 * BATCH + 5,
    )
)
def test_each_of_many_has_its_place_whatever_is_beside_it(shades, chosen):
    """`predict_many` answers each picture as `predict` does, in the order of the pictures.

    For a bad picture, the answer is the error that `predict` raises.
    """

    def form_of(one):
        if not isinstance(one, tuple):
            return BAD[one]
        return GOOD[one[0]](np.full((9, 11, 3), one[1], np.uint8))

    predictions = list(shades.predict_many(map(form_of, chosen)))
    assert len(predictions) == len(chosen)
    for one, prediction in zip(chosen, predictions, strict=True):
        if isinstance(one, tuple):
            alone = shades.predict(form_of(one))
            np.testing.assert_allclose(prediction.probabilities, alone.probabilities, atol=1e-6)
        else:
            with pytest.raises(DataError) as error:
                shades.predict(form_of(one))
            assert str(prediction) == str(error.value)


def test_one_picture_given_as_many_is_one(shades, tmp_path):
    pixels = np.full((9, 11, 3), 128, np.uint8)
    file = tmp_path / "a.png"
    file.write_bytes(png(pixels))
    for one in (str(file), file, png(pixels), pixels, Image.fromarray(pixels), pixels.tolist()):
        (prediction,) = shades.predict_many(one)
        assert prediction.label == "c"
    assert len(list(shades.predict_many(np.stack([pixels] * 3)))) == 3
    assert list(shades.predict_many([])) == []
    with pytest.raises(DataError, match="give a list of them"):
        shades.predict_many(None)


@pytest.mark.parametrize("count", [0, 1, 5, BATCH, 3 * BATCH, 3 * BATCH + 1])
def test_pictures_that_end_in_an_error_are_predicted_before_it(shades, count):
    def pictures():
        for _ in range(count):
            yield np.zeros((9, 11, 3), np.uint8)
        raise OSError("the camera is gone")

    predictions = []
    with pytest.raises(OSError, match="the camera is gone"):
        # `extend` keeps the predictions that come before the error.
        predictions.extend(shades.predict_many(pictures()))
    assert len(predictions) == count


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """Provides exported files in three formats, with the format as the key."""
    folder = tmp_path_factory.mktemp("exported")
    files = {}
    for form in ("safetensors", "stablehlo", "learner"):
        files[form] = folder / f"{form}.safetensors"
        argv = [str(trained[0]), "--format", form, "--out", str(files[form])]
        assert run_command(export, ExportOptions, "export", argv) == 0
    return files


def test_a_learners_file_is_the_run_again(trained, exported, held_out):
    of_run, of_file = load_learner(trained[0]), load_learner(exported["learner"])
    assert of_file.about == of_run.about
    assert of_file.classes == of_run.classes
    assert of_file.normalization == of_run.normalization
    jax.tree.map(np.testing.assert_array_equal, of_file.variables, of_run.variables)


def test_a_stablehlo_file_runs_with_jax_alone(trained, exported):
    """An exported program runs without jaxch5 and Flax, for any number of pictures.

    The program is for both CPUs and GPUs.
    """
    program = """
import json, re, sys
from pathlib import Path
import jax, numpy as np
program = jax.export.deserialize(bytearray(Path(sys.argv[1]).read_bytes()))
pictures = np.arange(3 * 36 * 36 * 3).reshape(3, 36, 36, 3).astype(np.uint8)
print(json.dumps([np.asarray(program.call(pictures[:count])).tolist() for count in (1, 3)]))
assert not [name for name in sys.modules if name.startswith(("jaxch5", "flax"))]
for device in ("cpu", "cuda"):
    jax.jit(program.call).trace(pictures).lower(lowering_platforms=(device,))
# Any other call would need code that one device has and the other one lacks.
calls = set(re.findall(r"custom_call @(\\w+)", program.mlir_module()))
assert calls == {"shape_assertion"}, calls
"""
    ended = subprocess.run(
        [sys.executable, "-c", program, exported["stablehlo"]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    pictures = np.arange(3 * 36 * 36 * 3).reshape(3, 36, 36, 3).astype(np.uint8)
    expected = [found.probabilities for found in load_learner(trained[0]).predict_many(pictures)]
    for count, found in zip((1, 3), json.loads(ended.stdout), strict=True):
        np.testing.assert_allclose(found, expected[:count], atol=1e-5)


def test_what_is_no_learner_is_named(trained, exported, tmp_path):
    with pytest.raises(WeightsError, match="is not a learner's file, as it has no arch"):
        load_learner(exported["safetensors"])
    with pytest.raises(WeightsError, match=r"stablehlo\.safetensors: is neither a run nor"):
        load_learner(exported["stablehlo"])
    with pytest.raises(WeightsError, match=r"nowhere: .* run, and no file nowhere\.safetensors"):
        load_learner(tmp_path / "nowhere")
    with pytest.raises(WeightsError, match=r"nowhere\.safetensors: there is no such run or file"):
        load_learner(tmp_path / "nowhere.safetensors")
    with pytest.raises(ConfigError, match="is not a run directory"):
        load_learner(tmp_path)


def test_a_learners_file_gets_no_name_by_which_it_could_not_be_read(trained, tmp_path):
    with pytest.raises(ConfigError, match=r"x\.learner: should end in \.safetensors"):
        write_artifact(load_learner(trained[0]), tmp_path / "x.learner", "learner")
    with pytest.raises(ConfigError, match=r"x\.pkl: should end .* write x\.safetensors instead"):
        write_artifact(load_learner(trained[0]), Path("x.pkl"), "learner")
    with pytest.raises(ConfigError, match=r"write pets\.safetensors instead"):
        write_artifact(load_learner(trained[0]), Path("pets.h5"), "learner")
    with pytest.raises(ConfigError, match=r"write pets-v1\.2\.safetensors instead"):
        write_artifact(load_learner(trained[0]), Path("pets-v1.2"), "learner")
    assert not list(tmp_path.iterdir())
    (tmp_path / "x.safetensors").touch()
    with pytest.raises(WeightsError, match=r"did you mean .*x\.safetensors"):
        load_learner(tmp_path / "x.pkl")
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(WeightsError, match=r"x\.pkl: is a pickle, not a learner's file; export"):
        load_learner(tmp_path / "x.pkl")


def predicted(capsys, *argv):
    status = run_command(predict, PredictOptions, "jaxch5 predict", [*map(str, argv)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_the_command_has_a_line_a_picture(trained, pictures, held_out, capsys):
    """`predict` prints one line for each picture, with its two most probable classes.

    Pictures are given as folders, patterns and paths.
    """
    status, out, err = predicted(
        capsys, trained[0], pictures / "red", f"{pictures}/blue/1*.jpg", held_out[0]
    )
    assert status == 0
    assert err == ""
    lines = [line.split("\t") for line in out.splitlines()]
    assert len(lines) == 20 + 11 + 1
    assert lines[-1][0] == held_out[0]
    for _, first, second in lines:
        assert {first.split()[0], second.split()[0]} == {"blue", "red"}
        assert float(first.split()[1]) >= float(second.split()[1])


def test_a_pattern_may_match_folders(trained, pictures, tmp_path, capsys):
    """A folder that matches is listed as if it were named; one is not listed twice by `**`."""
    root = shutil.copytree(pictures, tmp_path / "photos")
    shutil.copytree(root / "red", root / "blue" / "more")
    (root / "red" / "notes.txt").touch()
    for pattern, count in (("*", 60), ("**/more", 20), ("*/m*", 20), ("[br]*/1*.jpg", 22)):
        status, out, err = predicted(capsys, trained[0], f"{root}/{pattern}")
        assert status == 0, err
        assert len({line.split("\t")[0] for line in out.splitlines()}) == count
        assert len(out.splitlines()) == count
        assert err.count("1 file of another kind") == (pattern == "*")
    (root / "red" / "notes.txt").unlink()
    (root / "green").mkdir()
    for pattern in ("**", "*"):
        status, out, err = predicted(capsys, trained[0], f"{root}/{pattern}")
        assert (status, err) == (0, "")
        assert len(out.splitlines()) == 60
    status, out, err = predicted(capsys, trained[0], f"{root}/g*")
    assert (status, out) == (1, "")
    assert f"{root}/g*: contains no readable pictures" in err


def test_what_a_folder_holds_beside_pictures_is_counted(trained, pictures, tmp_path, capsys):
    (tmp_path / "1.jpg").write_bytes((pictures / "red" / "0.jpg").read_bytes())
    (tmp_path / "2.jpg.part").write_bytes((pictures / "red" / "1.jpg").read_bytes())
    (tmp_path / "notes.txt").write_text("about it")
    status, out, err = predicted(capsys, trained[0], tmp_path)
    assert (status, len(out.splitlines())) == (0, 1)
    (line,) = err.splitlines()
    for part in (str(tmp_path), "1 file of another kind", "1 picture without", "2.jpg.part"):
        assert part in line
    _, out, _ = predicted(capsys, trained[0], tmp_path, "--json")
    listed = json.loads(out)["passed_over"][str(tmp_path)]
    assert sorted(listed.values()) == [["2.jpg.part"], ["notes.txt"]]


def test_a_bad_picture_is_one_error_line_and_the_rest_go_on(trained, held_out, tmp_path, capsys):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"")
    argv = (trained[0], broken, held_out[0], "--json", "--top", "1")
    status, out, err = predicted(capsys, *argv)
    assert status == 1
    assert err.count("\n") == 1
    assert "broken.jpg: is an empty file" in err
    bad, good = json.loads(out)["predictions"]
    assert "empty file" in bad["error"]
    assert good["path"] == held_out[0]
    assert len(good["classes"]) == 1


def test_every_name_has_its_line_whatever_the_others_are(
    trained, held_out, tmp_path, capsys, monkeypatch
):
    """`predict` answers each name with a prediction or an error, whatever the other names are.

    For example, a folder without pictures does not end the command.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "page.jpg").write_text("<!doctype html>")
    (tmp_path / "folder.jpg").mkdir()
    bad = ["empty", "empty.jpg", "none.jpg", "*.none", "page.jpg", "folder.jpg", "http://h/a.jpg"]
    names = [held_out[0], *bad, held_out[1]]
    status, out, err = predicted(capsys, trained[0], *names)
    assert status == 1
    assert [line.split("\t")[0] for line in out.splitlines()] == [held_out[0], held_out[1]]
    lines = err.splitlines()
    assert len(lines) == len(bad)
    for name, line in zip(bad, lines, strict=True):
        assert line.startswith(f"jaxch5 predict: {name}: ")
    status, out, _ = predicted(capsys, trained[0], *names, "--json")
    assert [row["path"] for row in json.loads(out)["predictions"]] == names


def test_nothing_on_standard_input_is_said(trained, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    status, _, err = predicted(capsys, trained[0], "-")
    assert status == 1
    assert err == "jaxch5 predict: -: standard input is empty\n"


def test_standard_input_is_a_picture_or_a_list_of_them(trained, held_out, capsys, monkeypatch):
    """A picture on standard input is answered as its file is, and a list as the files it names."""
    names = [held_out[0], held_out[-1], held_out[1]]
    one = predicted(capsys, trained[0], names[0])
    as_content = one[1].replace(names[0], "-")
    for piped, expected in (
        (Path(names[0]).read_bytes(), (0, as_content, "")),
        ("\n".join(names).encode(), predicted(capsys, trained[0], *names)),
        ("\r\n".join(names).encode(), predicted(capsys, trained[0], *names)),
        (f"{names[0]}\n".encode(), one),
    ):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(piped)))
        assert predicted(capsys, trained[0], "-") == expected


def test_a_threshold_alone_needs_the_task_that_has_it(trained, held_out, capsys):
    status, _, err = predicted(capsys, trained[0], held_out[0], "--model.threshold", "0.9")
    assert status == 2
    assert err.endswith("needs model.task = sigmoid too\n")


def test_a_file_keeps_the_threshold_of_a_softmax(trained, tmp_path):
    predictor = load_learner(trained[0])
    predictor.task = replace(SOFTMAX, threshold=0.9999)
    write_artifact(predictor, tmp_path / "sure.safetensors", "learner")
    assert load_learner(tmp_path / "sure.safetensors").task == predictor.task
    assert load_learner(trained[0]).task == SOFTMAX


@pytest.mark.parametrize("name", ["*.nothing", "."])
def test_a_name_that_stands_for_no_picture_is_named(name, trained, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = predicted(capsys, trained[0], name)
    assert status == 1
    assert err.startswith(f"jaxch5 predict: {name}: ")


def test_an_export_that_cannot_be_written_is_one_line(trained, tmp_path, capsys):
    argv = [str(trained[0]), "--out", str(tmp_path / "no" / "model.safetensors")]
    assert run_command(export, ExportOptions, "jaxch5 export", argv) == 1
    err = capsys.readouterr().err
    assert "model.safetensors: cannot be written: No such file or directory" in err


def test_an_export_into_a_pipe_or_a_device_leaves_it_what_it_is(trained, exported, tmp_path):
    """Writing to a pipe, a device or a link to one does not replace it by a file.

    If it were replaced, it would be lost to every process that uses it.
    """
    pipe, link, got = tmp_path / "pipe", tmp_path / "link", []
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for name in (pipe, link):
        # The reader waits forever if nothing is written to the pipe. As a daemon thread, it would
        # not keep the process from ending.
        reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
        reader.start()
        argv = [str(trained[0]), "--format", "safetensors", "--out", str(name)]
        assert run_command(export, ExportOptions, "export", argv) == 0
        assert pipe.is_fifo()
        assert link.is_symlink()
        reader.join(10)
        assert got.pop() == exported["safetensors"].read_bytes()

    master, terminal = os.openpty()
    device = Path(os.ttyname(terminal))
    write_file(device, b"content")
    assert os.read(master, 100) == b"content"
    assert device.is_char_device()
    os.close(terminal)
    os.close(master)
    with pytest.raises(CheckpointError, match="Not a directory"):
        write_file(Path(__file__) / "x", b"content")
