"""Descriptions beside weights are read, contradictions are refused, and guesses are reported."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxch5.errors import WeightsError
from jaxch5.models.provenance import known_of
from jaxch5.models.registry import spec_of
from jaxch5.models.spec import IMAGENET, Normalization
from jaxch5.view import View

# What timm 1.0.31 writes for resnet34.ra4_e3600_r224_in1k.
TIMM = Path(__file__).parent / "timm" / "config.json"
HALF = Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
shares = st.floats(0, 1).map(lambda x: round(x, 4))
triples = st.tuples(shares, shares, shares)
deviations = st.floats(1e-3, 1).map(lambda x: round(x, 4))
spread = st.tuples(deviations, deviations, deviations)
FORMS = {
    "timm": lambda mean, std: ("config.json", {"pretrained_cfg": {"mean": mean, "std": std}}),
    "old timm": lambda mean, std: ("config.json", {"mean": mean, "std": std}),
    "transformers": lambda mean, std: (
        "preprocessor_config.json",
        {"image_mean": mean, "image_std": std},
    ),
}


@pytest.fixture
def folder(tmp_path):
    return tmp_path


def known(folder, metadata=None, arch="resnet34", given=None, name="weights.safetensors", **named):
    return known_of(folder / name, metadata or {}, spec_of(arch), given, **named)


def test_timms_own_description_is_heard(folder):
    shutil.copy(TIMM, folder)
    found = known(folder)
    assert found[:3] == (HALF, None, "config.json")
    assert (found.view, found.licence) == (View(1.0, "bicubic"), "apache-2.0")
    assert (found.size, found.remarks) == (288, ())
    said = json.loads(TIMM.read_text())
    said["pretrained_cfg"]["crop_mode"] = "squash"
    (folder / "config.json").write_text(json.dumps(said))
    assert known(folder).remarks == ("tested with the crop mode squash (--data.method)",)


def test_where_nothing_is_known_that_is_said(folder):
    found = known(folder)
    assert found.normalization == IMAGENET
    assert "nothing says" in found.source
    assert "--model.mean and --model.std" in found.source


@pytest.mark.parametrize("form", FORMS)
@given(mean=triples, std=spread, other=triples)
@settings(max_examples=30, deadline=None)
def test_each_form_of_description_is_heard_or_contradicted(
    tmp_path_factory, form, mean, std, other
):
    folder = tmp_path_factory.mktemp("weights")
    name, values = FORMS[form](mean, std)
    (folder / name).write_text(json.dumps(values))
    assert known(folder)[:3] == (Normalization(mean, std), None, name)
    metadata = {"mean": json.dumps(other), "std": json.dumps(std)}
    if other == mean:
        assert known(folder, metadata).source == f"its metadata and {name}"
        return
    with pytest.raises(WeightsError, match=f"its metadata and {name} contradict each other"):
        known(folder, metadata)
    # Mean and deviation from the settings take precedence, so that they resolve a contradiction.
    given_found = known(folder, metadata, given=HALF)
    assert (given_found.normalization, given_found.source) == (HALF, "--model.mean and --model.std")


def test_weights_that_take_pictures_as_they_are_get_them_so(folder):
    """With `do_normalize` false, transformers ignores the mean and deviation that a file states."""
    name, values = FORMS["transformers"](HALF.mean, HALF.std)
    for normalize, found in ((False, Normalization((0, 0, 0), (1, 1, 1))), (True, HALF)):
        (folder / name).write_text(json.dumps(values | {"do_normalize": normalize}))
        assert known(folder)[:3] == (found, None, name)
    (folder / name).write_text(json.dumps({"do_normalize": False}))
    assert known(folder).normalization == Normalization((0, 0, 0), (1, 1, 1))
    assert known(folder, given=HALF).normalization == HALF
    (folder / name).write_text(json.dumps({"do_normalize": False, "rescale_factor": 0.00392157}))
    assert known(folder).normalization == Normalization((0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize(
    "scaled", [{"do_rescale": False}, {"rescale_factor": 1 / 127.5}, {"rescale_factor": 1}]
)
def test_weights_that_take_values_on_another_scale_need_their_mean_stated(scaled, folder):
    (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": False} | scaled))
    ((key, value),) = scaled.items()
    with pytest.raises(WeightsError, match=r"use --model\.mean and --model\.std") as raised:
        known(folder)
    assert f"{key} = {json.dumps(value)}" in str(raised.value)
    assert known(folder, given=HALF).normalization == HALF


def test_a_description_of_another_architecture_is_not_theirs(folder):
    """The line says so even if the mean and deviation are known from elsewhere."""
    shutil.copy(TIMM, folder)
    said = "config.json beside it describes resnet34 and is ignored"
    found = known(folder, arch="resnet18")
    assert (found.normalization, found.remarks) == (IMAGENET, (said,))
    assert known(folder, arch="resnet18", given=HALF).remarks == (said,)
    metadata = dict.fromkeys(("mean", "std"), json.dumps(HALF.mean)) | {"size": "64"}
    found = known(folder, metadata, "resnet18")
    assert (found.size, found.remarks) == (64, (said,))


def test_another_architecture_is_a_contradiction_only_where_the_file_must_be_meant(folder):
    """Other libraries have other names for the same networks, such as swsl_resnet18."""
    for of, one, way_out in (
        ("resnet34", False, "--model.arch resnet34"),
        ("swsl_resnet18", True, f"--model.weights {folder / 'model.safetensors'} ignores this"),
    ):
        (folder / "config.json").write_text(json.dumps({"architecture": of}))
        with pytest.raises(WeightsError, match=re.escape(f"not resnet18 ({way_out})")):
            known(folder, arch="resnet18", name="model.safetensors", one=one)
    found = known(folder, arch="resnet18", name="model.safetensors")
    assert found.remarks == ("config.json beside it describes swsl_resnet18 and is ignored",)


def test_label_names_are_the_heads_classes(folder):
    values = json.loads(TIMM.read_text())
    (folder / "config.json").write_text(json.dumps(values | {"label_names": ["cat", "dog"]}))
    assert known(folder).classes == ("cat", "dog")
    assert known(folder, given=IMAGENET).classes == ("cat", "dog")
    for named, classes in (({"1": "dog", "0": "cat"}, ("cat", "dog")), ({"1": "dog"}, None)):
        (folder / "config.json").write_text(json.dumps(values | {"label_names": named}))
        assert known(folder).classes == classes


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read"),
        ('{"mean": [123.7, 116.3, 103.5], "std": [58, 57, 57]}', "for values from 0 to 1"),
        ('{"pretrained_cfg": {"mean": [0.5, 0.5], "std": [0.5, 0.5, 0.5]}}', "mean = "),
        ('{"mean": [0.5, 0.5, 0.5]}', "lacks std"),
        ('{"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0]}', "std = "),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_a_description_that_cannot_be_meant_is_named_with_a_way_out(content, said, folder):
    file = folder / "config.json"
    file.write_text(content)
    with pytest.raises(WeightsError) as raised:
        known(folder)
    line = str(raised.value)
    assert line.startswith(str(file))
    assert said in line
    assert "--model.mean and --model.std" in line
    assert "\n" not in line


@pytest.mark.parametrize("content", ["[1, 2]", '{"scripts": {"test": "x"}}', '"text"'])
def test_a_file_of_that_name_that_is_something_else_says_nothing(content, folder):
    (folder / "config.json").write_text(content)
    assert known(folder).normalization == IMAGENET


def test_metadata_without_its_other_half_is_refused(folder):
    """Metadata with a mean but no deviation is refused, unless the settings state both.

    An earlier version silently combined the given mean with ImageNet's deviation.
    """
    with pytest.raises(WeightsError, match="its metadata lacks std"):
        known(folder, {"mean": json.dumps([0.5] * 3)})
    assert known(folder, {"mean": json.dumps([0.5] * 3)}, given=HALF).normalization == HALF
    assert np.isfinite(known(folder).normalization.mean).all()
