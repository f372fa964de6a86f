"""A classifier exported for use with timm and Pillow matches the classifier in jaxch5."""

import json
import os
import struct
from dataclasses import replace

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageCms

import jaxch5 as jx
from jaxch5.augmentation.center import center
from jaxch5.batch import without_labels
from jaxch5.cli import run
from jaxch5.data.picture import presized
from jaxch5.errors import ConfigError
from jaxch5.export import ExportOptions, export
from jaxch5.framing import Framing, height_and_width
from jaxch5.models.registry import create_model, spec_of
from jaxch5.models.spec import Normalization
from jaxch5.results.about import About
from jaxch5.results.artifacts import as_safetensors, as_timm, write_artifact
from jaxch5.results.elsewhere import onnx_program, pixels
from jaxch5.results.predictor import Predictor
from jaxch5.run.transfer import find_weights
from jaxch5.task import SOFTMAX, one_vs_rest
from jaxch5.view import WHOLE, View

PLAIN = Normalization((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))


def classifier(arch, head="linear", **about):
    # The head of a user's own network cannot be chosen.
    model = create_model(arch, 3, head if isinstance(arch, str) else None)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False)
    spec = spec_of(arch)
    of = About(spec.name, head, "fp32", **{"presize": 72, "size": 64, **about})
    return Predictor(model, variables, ("a", "b", "é"), PLAIN, of, spec=spec)


@pytest.mark.parametrize(("arch", "first"), [("resnet18", "conv1"), ("resnet18d", "conv1.0")])
def test_a_folder_for_timm_has_what_timm_writes(arch, first, tmp_path):
    """A folder exported for timm has timm's files and configuration.

    It can be read back as weights, with the classifier's normalization, classes and variables.
    """
    predictor = classifier(arch, size=(64, 96), method="squish")
    write_artifact(predictor, tmp_path / "folder", "timm")
    assert sorted(os.listdir(tmp_path / "folder")) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    config = json.loads((tmp_path / "folder" / "config.json").read_text("utf-8"))
    assert (config["architecture"], config["num_classes"], config["num_features"]) == (arch, 3, 512)
    assert config["label_names"] == ["a", "b", "é"]
    pretrained = config["pretrained_cfg"]
    assert pretrained["input_size"] == [3, 64, 96]
    assert pretrained["crop_mode"] == "squash"
    assert (pretrained["first_conv"], pretrained["classifier"]) == (first, "fc")
    weights = tmp_path / "folder" / "model.safetensors"
    assert weights.read_bytes() == as_safetensors(predictor)
    found = find_weights(weights, arch)
    assert (found.normalization, found.classes) == (PLAIN, ("a", "b", "é"))
    jax.tree.map(np.testing.assert_array_equal, found.variables, predictor.variables)


class Net(nn.Module):
    num_classes: int = 3

    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(self.num_classes, name="head")(x.mean((1, 2)))


def test_an_attribute_that_is_no_field_is_not_set_for_onnx():
    """Such a module computes as it was written, and it did so in training too."""

    class Half(Net):
        dtype = jnp.float16  # not annotated, so not a field

    predictor = classifier(Half(), size=8)
    program, shape = onnx_program(predictor)
    pictures = np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8)
    expected = predictor.probabilities(pictures.astype(np.float32) / 255)
    np.testing.assert_allclose(program(pictures), expected, atol=1e-6)


def test_what_timm_has_not_is_refused():
    with pytest.raises(ConfigError, match=r"no head concat_pool; train with --model\.head lin"):
        as_timm(classifier("resnet18", "concat_pool"))
    spec = jx.ModelSpec("net", Net)
    for own in (spec, Net(3)):
        with pytest.raises(ConfigError, match=r"no weights named timm/[Nn]et\.TAG are"):
            as_timm(classifier(own))


@pytest.mark.parametrize(
    ("task", "line"),
    [
        (one_vs_rest(), "probabilities = logits.sigmoid()"),
        (replace(SOFTMAX, name="own:TASK"), "# The task own:TASK has an activation of its own"),
    ],
)
def test_the_lines_for_timm_have_the_tasks_activation(task, line):
    predictor = classifier("resnet18")
    predictor.task = task
    text = as_timm(predictor)["README.md"].decode()
    assert line in text
    assert "softmax" not in text


@pytest.mark.parametrize("form", ["timm", "onnx"])
def test_the_command_says_what_prepares_pictures(form, tmp_path, capsys):
    learner = tmp_path / "learner.safetensors"
    write_artifact(classifier("resnet18"), learner, "learner")
    argv = [str(learner), "--format", form, "--out", str(tmp_path / form)]
    assert run(export, ExportOptions, "jaxch5 export", argv) == 0
    assert "has the lines of code that prepare pictures" in capsys.readouterr().out
    assert (tmp_path / form).is_dir() == (form == "timm")


FRAMINGS = [
    ("crop", "reflection", 48, WHOLE),
    ("crop", "reflection", (48, 64), View(0.8, "bicubic")),
    ("squish", "reflection", 48, View(0.9)),
    ("pad", "zeros", 48, View(1.0, "bicubic")),
    *(("pad", mode, (48, 64), WHOLE) for mode in ("reflection", "border", "zeros", "#ff8000")),
]


@pytest.mark.parametrize(("method", "pad_mode", "size", "view"), FRAMINGS)
@pytest.mark.parametrize("sides", [(300, 200), (130, 260), (60, 70)])
def test_pillows_pixels_are_near_what_the_network_sees(
    method, pad_mode, size, view, sides, tmp_path
):
    """Pillow's pixels differ by less than 4 of 255, on average, from what the network sees.

    With another framing method, they differ by more than 8, unless the picture already has the
    input's proportions.
    """
    blotches = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    file = tmp_path / "1.png"
    Image.fromarray(cv2.resize(blotches, sides, interpolation=cv2.INTER_CUBIC)).save(file)
    canvas, frame = presized(file, 64, method=method)
    batch = without_labels(canvas[None], frame[None], Framing(method, pad_mode))
    seen = 255 * np.asarray(center(batch, size, view=view)[0])
    found = pixels(str(file), 64, height_and_width(size), *vars(view).values(), method, pad_mode)
    assert found.dtype == np.uint8
    assert found.shape == seen.shape
    assert np.abs(found - seen).mean() < 4
    others = {"crop": "squish", "squish": "pad", "pad": "crop"}[method], pad_mode
    other = pixels(str(file), 64, height_and_width(size), *vars(view).values(), *others)
    if sides[0] * height_and_width(size)[0] != sides[1] * height_and_width(size)[1]:
        assert np.abs(other - seen).mean() > 8


KINDS = {
    "transparent.png": lambda picture: picture.putalpha(
        Image.linear_gradient("L").resize((90, 60))
    ),
    "palette.png": lambda picture: picture.quantize(32),
    "grey.png": lambda picture: picture.convert("L"),
    "inks.tif": lambda picture: picture.convert("CMYK"),
}


@pytest.mark.parametrize("profile", ["none", "sRGB", "LAB", "damaged"])
@pytest.mark.parametrize("name", KINDS)
def test_pillows_pixels_of_every_kind_are_near_what_the_network_sees(name, profile, tmp_path):
    """Transparency and colour profiles, also unfit ones, are read as jaxch5 reads them."""
    blotches = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    picture = Image.fromarray(cv2.resize(blotches, (90, 60), interpolation=cv2.INTER_CUBIC))
    picture = KINDS[name](picture) or picture
    icc = {"none": None, "damaged": b"no profile at all"}
    if profile not in icc:
        icc[profile] = ImageCms.ImageCmsProfile(ImageCms.createProfile(profile)).tobytes()
    picture.save(tmp_path / name, icc_profile=icc[profile])
    canvas, frame = presized(tmp_path / name, 64)
    batch = without_labels(canvas[None], frame[None], Framing())
    seen = 255 * np.asarray(center(batch, 48)[0])
    assert np.abs(pixels(str(tmp_path / name), 64, (48, 48)) - seen).mean() < 4


@pytest.mark.parametrize("compression", [1, 5])
@pytest.mark.parametrize("form", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pillows_pixels_refuse_what_has_more_than_8_bits(channels, form, compression, tmp_path):
    """Pillow would return the colours' upper 8 bits, which are nearly black in this picture."""
    file = str(tmp_path / f"1.{form}")
    options = [cv2.IMWRITE_TIFF_COMPRESSION, compression] if form == "tif" else []
    cv2.imwrite(file, np.full((60, 90, channels), 4000, np.uint16), options)
    with pytest.raises(ValueError, match=rf"1\.{form}: has more than 8 bits"):
        pixels(file, 64, (48, 48))


def test_pillows_pixels_read_16_bits_that_are_a_whole_pixel(tmp_path):
    """A BMP file may store 5, 6 and 5 bits for red, green and blue."""
    header = b"BM" + struct.pack("<IHHI", 66 + 8, 0, 0, 66)
    header += struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, 16, 3, 8, 0, 0, 0, 0)
    header += struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    (tmp_path / "1.bmp").write_bytes(header + struct.pack("<H", 0xF800) * 4)
    assert pixels(str(tmp_path / "1.bmp"), 2, (2, 2))[0, 0].tolist() == [255, 0, 0]


def test_no_export_replaces_what_it_is_made_from_or_a_file_of_ones_own(tmp_path, capsys):
    """An export would leave neither the learner nor the README of a project that it replaces."""
    learner, folder = tmp_path / "model.safetensors", tmp_path / "project"
    write_artifact(classifier("resnet18"), learner, "learner")
    before = learner.read_bytes()
    folder.mkdir()
    (folder / "README.md").write_text("my project")
    for form, out, said in (
        ("safetensors", learner, "is the learner's file itself"),
        ("timm", folder, "README.md: would be replaced, and the folder has no README.md of"),
    ):
        argv = [str(learner), "--format", form, "--out", str(out)]
        assert run(export, ExportOptions, "jaxch5 export", argv) == 2
        assert said in capsys.readouterr().err
    assert learner.read_bytes() == before
    assert (folder / "README.md").read_text() == "my project"
    assert os.listdir(folder) == ["README.md"]
    argv = [str(learner), "--format", "timm", "--out", str(tmp_path / "again")]
    assert [run(export, ExportOptions, "jaxch5 export", argv) for _ in range(2)] == [0, 0]


def test_an_earlier_export_is_known_by_its_readme(tmp_path):
    """A repository of the hub has files of the same names; an export may have been interrupted."""
    predictor = classifier("resnet18")
    names = [*as_timm(predictor)]
    for name in names:
        (tmp_path / name).write_text("library_name: timm")
    with pytest.raises(ConfigError, match=r"the folder has no README\.md of an earlier export"):
        write_artifact(predictor, tmp_path, "timm")
    assert {(tmp_path / name).read_text() for name in names} == {"library_name: timm"}
    (tmp_path / "README.md").unlink()
    with pytest.raises(ConfigError, match=r"the folder has no README\.md of an earlier export"):
        write_artifact(predictor, tmp_path, "timm")
    # The files are written in this order, so an interrupted export has at least the first one.
    interrupted = tmp_path / "interrupted"
    interrupted.mkdir()
    (interrupted / names[0]).write_bytes(as_timm(predictor)[names[0]])
    write_artifact(predictor, interrupted, "timm")
    assert sorted(os.listdir(interrupted)) == sorted(names)
