"""Maps of where a classifier looks mark the object's place in the network's input."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from PIL import Image

import jaxch5 as jx
from jaxch5.cli import run
from jaxch5.data.canvases import Canvases
from jaxch5.data.sources import listing
from jaxch5.errors import CheckpointError, ConfigError, DataError
from jaxch5.models import convnext, resnet
from jaxch5.models.registry import create_model, spec_of
from jaxch5.models.spec import Normalization
from jaxch5.models.vit import vit_spec
from jaxch5.predict import PredictOptions, explain, predict
from jaxch5.results.about import About
from jaxch5.results.attribution import attributions, check_has_map
from jaxch5.results.predictor import Predictor
from jaxch5.task import SOFTMAX, one_vs_rest

PLAIN = Normalization((0.5,) * 3, (0.25,) * 3)
CLASSES = ("dark", "bright")


class Bright(nn.Module):
    """A network whose map is the brightness of each pixel.

    Bright pixels support the second class.
    """

    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(nn.Conv(1, (1, 1), kernel_init=nn.initializers.ones, name="brightness")(x))
        kernel = nn.initializers.constant(jnp.array([[-1.0, 1.0]]))
        return nn.Dense(2, kernel_init=kernel, name="head")(x.mean((1, 2)))


def classifier(model, size, spec=None, classes=CLASSES, task=SOFTMAX, **how):
    sides = (size, size) if isinstance(size, int) else size
    variables = model.init(jax.random.key(0), jnp.zeros((1, *sides, 3)), train=False)
    about = About("own", "linear", "fp32", presize=max(sides), size=size, **how)
    return Predictor(model, variables, classes, PLAIN, about, task, spec)


FRAMINGS = {
    "crop": {},
    "squish": {"method": "squish"},
    "pad": {"method": "pad", "pad_mode": "zeros"},
    "a part of the crop": {"crop_pct": 0.8},
    "through Pillow's filter": {"crop_pct": 0.9, "interpolation": "bicubic"},
}


@pytest.mark.parametrize("how", FRAMINGS.values(), ids=FRAMINGS)
@pytest.mark.parametrize("size", [64, 50, (72, 48)])
@pytest.mark.parametrize("shape", [(90, 120), (101, 67)])
def test_the_brightest_place_is_where_the_object_is(how, size, shape):
    """The map marks the object in the network's input, whichever corner it is in.

    This holds wherever the framing has moved the object from its place in the file.
    """
    height, width = shape
    predictor = classifier(Bright(), size, **how)
    for top, left in ((0.25, 0.25), (0.25, 0.65), (0.65, 0.25), (0.65, 0.65)):
        picture = np.full((*shape, 3), 20, np.uint8)
        row, column = int(top * height), int(left * width)
        picture[row : row + height // 8, column : column + width // 8] = 255
        found = jx.attribution(predictor, picture, "bright")
        assert found.map.shape == found.picture.shape[:2]
        assert (found.map.dtype, found.picture.dtype) == (np.float32, np.float32)
        assert found.picture.shape[:2] == ((size, size) if isinstance(size, int) else size)
        bright = np.maximum(found.picture.mean(-1) - 0.5, 0)
        np.testing.assert_allclose(found.map, bright / bright.max(), atol=1e-4)
        assert 0 < (found.map > 0.5).mean() < 0.1


def test_the_class_that_is_asked_for():
    predictor = classifier(Bright(), 32)
    picture = np.full((32, 32, 3), 200, np.uint8)
    likely = jx.attribution(predictor, picture)
    prediction = predictor.predict(picture)
    assert (likely.label, likely.probability) == ("bright", prediction.probabilities[1])
    other = jx.attribution(predictor, picture, "dark")
    assert other.label == "dark"
    assert other.probability == prediction.probabilities[0]
    # No part of the picture supports this class.
    assert (other.map == 0).all()
    with pytest.raises(ConfigError, match="grey: should be one of dark, bright"):
        jx.attribution(predictor, picture, "grey")
    with pytest.raises(DataError, match="no/such"):
        jx.attribution(predictor, "no/such.jpg")


def test_one_program_for_all_classes_weights_and_pictures():
    predictor = classifier(Bright(), 32)
    for label in (None, "dark", "bright"):
        jx.attribution(predictor, np.zeros((40, 50, 3), np.uint8), label)
    other = predictor.with_variables(jax.tree.map(jnp.zeros_like, predictor.variables))
    assert (jx.attribution(other, np.full((40, 50, 3), 255, np.uint8)).map == 0).all()
    (program,) = (made for made in predictor._programs.values() if hasattr(made, "programs"))
    assert len(program.programs) == 1


def test_many_are_what_each_is_alone():
    predictor = classifier(create_model("resnet18", 2), 64, spec_of("resnet18"))
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 255, (3, 64, 64, 3), np.uint8)
    canvases, frames = Canvases(jx.from_arrays(pictures, [0, 1, 0], CLASSES), 64, keep=False)(
        np.arange(3)
    )
    together = attributions(predictor, canvases, frames, [0, -1, 1])
    labels = ("dark", together[1].label, "bright")
    for picture, label, found in zip(pictures, labels, together, strict=True):
        alone = jx.attribution(predictor, picture, label)
        assert alone.label == found.label == label
        np.testing.assert_allclose(alone.map, found.map, atol=1e-3)
        np.testing.assert_allclose(alone.picture, found.picture, atol=1e-6)


def test_the_logit_counts_also_where_each_class_has_a_sigmoid():
    """The map is made from the logit's gradient, not from the probability's.

    If a sigmoid's probability is exactly 1, the probability's own gradient is 0.
    """
    softmax, sigmoid = (classifier(Bright(), 32, task=task) for task in (SOFTMAX, one_vs_rest()))
    sure = sigmoid.with_variables(jax.tree.map(lambda leaf: 100 * leaf, sigmoid.variables))
    picture = np.full((32, 32, 3), 200, np.uint8)
    found = jx.attribution(sure, picture, "bright")
    assert found.probability == 1
    np.testing.assert_allclose(found.map, jx.attribution(softmax, picture, "bright").map)


@pytest.mark.float16
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_it_is_computed_in_full_precision(precision):
    dtype = {"bf16": jnp.bfloat16, "fp16": jnp.float16}[precision]
    spec = spec_of("resnet18")
    full = classifier(create_model(spec, 2), 64, spec)
    half = classifier(create_model(spec, 2, dtype=dtype), 64, spec)
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    some, others = (jx.attribution(predictor, picture, "dark") for predictor in (full, half))
    np.testing.assert_array_equal(some.map, others.map)
    assert some.probability == others.probability


def test_a_module_of_nnx_is_refused_with_the_way_out():
    class Plain(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
            self.head = nnx.Linear(4, 2, rngs=rngs)

        def __call__(self, x):
            return self.head(self.conv(x).mean((1, 2)))

    predictor = classifier(create_model(Plain(nnx.Rngs(0)), 2), 16)
    with pytest.raises(ConfigError, match=r"Plain has no map .* linen"):
        check_has_map(predictor)


def test_the_command_writes_a_png_of_each_picture_and_replaces_none(
    trained, pictures, tmp_path, capsys
):
    """`--explain` writes a new PNG for each picture, and overwrites no file.

    This also holds for pictures with the same name in two folders, and for PNGs of an earlier run.
    """
    broken, folder = tmp_path / "broken.jpg", tmp_path / "seen" / "there"
    broken.write_text("Dear diary")
    names = [str(pictures / color / "0.jpg") for color in ("red", "blue")]
    command = [str(trained[0]), *names, str(broken), "--explain", str(folder), "--json"]
    for numbers in (("0", "0-2"), ("0-3", "0-4")):
        assert run(predict, PredictOptions, "predict", command) == 1
        *found, failed = json.loads(capsys.readouterr().out)["predictions"]
        drawn = [str(folder / f"{name}-explained.png") for name in numbers]
        assert [one["explanation"] for one in found] == drawn
        assert "explanation" not in failed
    for name, one in zip(names, found, strict=True):
        with Image.open(one["explanation"]) as drawn:
            assert (drawn.size, drawn.mode) == ((256, 256), "RGB")
        assert run(predict, PredictOptions, "predict", [*command[:1], name, *command[4:6]]) == 0
        assert capsys.readouterr().out.rstrip("\n").split("\t")[-1].startswith(str(folder))


def test_an_empty_map_is_said(tmp_path, capsys):
    """`explain` warns if nothing in the picture supports the class.

    Evidence against a class is left out of the map, so the map can be empty.
    """
    file = tmp_path / "black.png"
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(file)
    path = explain(classifier(Bright(), 32), file, tmp_path, "black.png")
    assert path == str(tmp_path / "black-explained.png")
    assert "black.png: nothing in the picture supports" in capsys.readouterr().err


@pytest.mark.parametrize("opened", [0, 2000])
def test_what_the_command_draws_is_no_picture_of_a_set(opened, tmp_path, monkeypatch):
    """The drawings are passed over whether all PNG files are opened or, among many, only some."""
    monkeypatch.setattr(listing, "PNG_OPENED", opened)
    Image.new("RGB", (32, 32), "white").save(tmp_path / "white.png")
    explain(classifier(Bright(), 32), tmp_path / "white.png", tmp_path, "white.png")
    listed = listing.list_folder(tmp_path)
    assert listed.pictures == ["white.png"]
    assert listed.passed_over == {listing.OWN: ["white-explained.png"]}


def test_a_folder_that_cannot_be_is_said(trained, pictures, tmp_path, capsys):
    (tmp_path / "file").touch()
    command = [
        str(trained[0]),
        str(pictures / "red" / "0.jpg"),
        "--explain",
        str(tmp_path / "file"),
    ]
    assert run(predict, PredictOptions, "predict", command) == CheckpointError.exit_code
    assert "cannot be written" in capsys.readouterr().err


def test_a_figure_of_it():
    """The figure shows the picture twice, the second time with the map over it."""
    pixels = np.full((32, 32, 3), 20, np.uint8)
    pixels[8:12, 16:20] = 255
    found = jx.attribution(classifier(Bright(), 32), pixels, "bright")
    picture, over = found.plot().axes
    assert picture.get_title().startswith("bright ")
    plain, marked = (axes.get_images()[0].get_array() for axes in (picture, over))
    np.testing.assert_allclose(plain, pixels / 255, atol=0.01)
    np.testing.assert_allclose(255 * marked, np.asarray(found.overlay()), atol=1)
    assert not np.array_equal(marked[8:12, 16:20], marked[20:24, 16:20])


SIDE, OBJECT = 64, 20
COLORS = np.array([[255, 60, 60], [60, 220, 60], [70, 90, 255], [240, 220, 40]])


def scenes(count, seed):
    """Returns pictures and their labels.

    Each picture shows a disk, whose colour is the label, on a background of clouds and noise.
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:OBJECT, :OBJECT] - (OBJECT - 1) / 2
    disk = np.hypot(rows, columns) < OBJECT / 2
    labels = np.arange(count) % len(COLORS)
    pictures = np.empty((count, SIDE, SIDE, 3), np.uint8)
    for place, label in enumerate(labels):
        coarse = 128 + rng.uniform(-80, 80, (6, 6, 1)) + rng.uniform(-25, 25, (6, 6, 3))
        clouds = Image.fromarray(coarse.clip(0, 255).astype(np.uint8)).resize((SIDE, SIDE))
        scene = np.asarray(clouds) + rng.normal(0, 10, (SIDE, SIDE, 3))
        top, left = rng.integers(0, SIDE - OBJECT, 2)
        scene[top : top + OBJECT, left : left + OBJECT][disk] = COLORS[label] * rng.uniform(0.7, 1)
        pictures[place] = scene.clip(0, 255)
    return pictures, labels


def architecture(name):
    """Returns a small variant of an architecture, and the number of epochs that it needs."""
    if name == "vit":
        return vit_spec("small_vit", patch=8, width=64, heads=4, depth=4), 8
    if name == "convnext":
        convnext.ARCHITECTURES["small"] = ((1, 1, 2, 1), 16)
        stages = convnext.CONVNEXT_NANO.stages
        return jx.ModelSpec("small", partial(convnext.ConvNeXt, "small"), stages=stages), 20
    resnet.ARCHITECTURES[name] = (resnet.BasicBlock, (1, 1, 1, 1))
    return name, 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "convnext", "vit"])
def test_hiding_what_it_marks_makes_the_class_less_probable(name, usual_compiler):
    """Hiding the marked fifth of a picture makes its class much less probable.

    The effect is more than twice that of hiding an area of the same shape at random places.
    """
    command = [sys.executable, "-m", __name__, name]
    subprocess.run(command, cwd=Path(__file__).parents[2], env=usual_compiler, check=True)


def check_by_deletion(name):
    spec, epochs = architecture(name)
    source = jx.from_arrays(*scenes(480, seed=0), ["red", "green", "blue", "yellow"])
    block = jx.DataBlock(source, jx.random_split(), presize=SIDE, size=SIDE, augment=None)
    learn = jx.vision_learner(block.load(32), spec, "none")
    learn.fit_one_cycle(epochs, 2e-3)
    assert learn.record["accuracy"] > 0.8

    predictor, rng = learn.predictor(), np.random.default_rng(0)
    of_class, hidden, elsewhere = [], [], []
    for picture in scenes(32, seed=1)[0]:
        found = jx.attribution(predictor, picture)
        mark = np.zeros(SIDE * SIDE, bool)
        mark[np.argsort(-found.map.ravel(), kind="stable")[: SIDE * SIDE // 5]] = True
        mark = mark.reshape(SIDE, SIDE)
        masks = [mark, *(np.roll(mark, rng.integers(0, SIDE, 2), (0, 1)) for _ in range(4))]
        grey = picture.mean((0, 1)).astype(np.uint8)
        tried = [np.where(mask[..., None], grey, picture) for mask in masks]
        place = source.classes.index(found.label)
        rest = [one.probabilities[place] for one in predictor.predict_many(tried)]
        of_class.append(found.probability)
        hidden.append(rest[0])
        elsewhere.append(np.mean(rest[1:]))
    drop, by_chance = (np.mean(of_class) - np.mean(rest) for rest in (hidden, elsewhere))
    print(f"{name}: {drop:.3f}, where by chance {by_chance:.3f}")
    assert drop > 0.2
    assert drop > 2 * by_chance


if __name__ == "__main__":
    check_by_deletion(sys.argv[1])
