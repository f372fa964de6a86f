"""Weights are read by a tag of timm's, from a repository at any revision, or from a folder."""

import io
import json
import re
import sys
from dataclasses import replace
from fnmatch import fnmatch
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from huggingface_hub import constants, hf_hub_download
from safetensors.numpy import load_file, save

from jaxch5.config.settings import ModelConfig
from jaxch5.data.block import DataBlock
from jaxch5.data.source import digits
from jaxch5.data.split import random_split
from jaxch5.errors import ConfigError, WeightsError
from jaxch5.learner import vision_learner
from jaxch5.models.hub import fetch, place_of
from jaxch5.models.pretrained import Pretrained, from_file, from_hub
from jaxch5.models.registry import OURS, architectures, spec_of
from jaxch5.models.spec import IMAGENET, Normalization
from jaxch5.models.weights import export_state_dict
from jaxch5.results.elsewhere import timm_config
from jaxch5.results.predictor import load_learner
from jaxch5.run.transfer import describe, find_weights, transfer
from jaxch5.util.address import is_on_hub
from jaxch5.view import WHOLE, View
from tests.models.shared import assert_equal, refusal

# Configurations that timm 1.0.31's `save_for_hf` writes, for resnet18.fb_swsl_ig1b_ft_in1k and for
# a resnet18d with three classes and their label_names.
SWSL, PETS = (Path(__file__).parent / "timm" / f"{name}.json" for name in ("swsl", "pets"))
CONFIG, SAFE, BIN = "config.json", "model.safetensors", "pytorch_model.bin"


@pytest.fixture(scope="module")
def variables(random_variables):
    return {count: random_variables("resnet18", count) for count in (3, 1000)}


@pytest.fixture(scope="module")
def swsl(variables):
    state_dict = export_state_dict(variables[1000], "resnet18")
    return {SAFE: save(state_dict), CONFIG: SWSL.read_bytes()}


@pytest.fixture(scope="module")
def pets(random_variables):
    state_dict = export_state_dict(random_variables("resnet18d", 3), "resnet18d")
    return {SAFE: save(state_dict), CONFIG: PETS.read_bytes()}


@pytest.fixture(scope="module")
def of_torch(variables):
    torch = pytest.importorskip("torch")
    state_dict = export_state_dict(variables[1000], "resnet18")
    content = io.BytesIO()
    torch.save({name: torch.from_numpy(value) for name, value in state_dict.items()}, content)
    return content.getvalue()


# Writes what timm states about each of its tags for our architectures, keyed by repository.
PROGRAM = """
import json, sys

sys.path.append(BENCHMARKS)
from peer import declare_torchvision_operators

declare_torchvision_operators()
from timm.models._registry import get_arch_pretrained_cfgs

said = {}
for arch in ARCHITECTURES:
    for name, cfg in get_arch_pretrained_cfgs(arch).items():
        size, crop = cfg.test_input_size or cfg.input_size, cfg.test_crop_pct or cfg.crop_pct
        said["timm/" + name] = [
            cfg.license, size[-1], crop, cfg.interpolation, list(cfg.mean), list(cfg.std)
        ]
json.dump(said, open("said.json", "w"))
"""


def test_what_is_known_of_tags_is_what_timm_says(peer, tmp_path):
    """All weights listed here have timm's values, and all of timm's ResNet weights are listed.

    Some tags of its vision transformers are left out because they belong to other networks.
    """
    names = [name for name in architectures() if name in OURS]
    benchmarks = str(Path(__file__).parent.parent.parent / "benchmarks")
    peer(f"BENCHMARKS, ARCHITECTURES = {benchmarks!r}, {names}\n{PROGRAM}", tmp_path)
    said = json.loads((tmp_path / "said.json").read_text())
    known = {
        each.repository: [
            each.licence,
            each.size,
            each.crop,
            each.interpolation,
            *map(list, each.normalization or spec_of(name).normalization),
        ]
        for name in names
        for each in spec_of(name).weights
    }
    assert known == {name: values for name, values in said.items() if name in known}
    resnets = {name for name in said if name.startswith("timm/resnet")}
    assert resnets == {name for name in known if name.startswith("timm/resnet")}


# Writes folders as the hub has them, with weights none of which has its initial value.
WRITES = """
import sys

sys.path.append(BENCHMARKS)
from peer import declare_torchvision_operators

declare_torchvision_operators()
import timm
import torch
from timm.models import save_for_hf

for arch in ARCHITECTURES:
    model = timm.create_model(arch)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.add_(torch.rand(value.shape))
    save_for_hf(model, arch, safe_serialization=True)
"""
WRITTEN = ("resnet18", "resnet18d", "convnext_nano", "vit_small_patch14_reg4_dinov2")


@pytest.mark.slow
def test_what_timm_writes_is_read_from_the_hub_and_written_again_to_the_bit(peer, serve, tmp_path):
    """No entry of timm's file is lost, none is added, and what its config.json says is used."""
    benchmarks = str(Path(__file__).parent.parent.parent / "benchmarks")
    peer(f"BENCHMARKS, ARCHITECTURES = {benchmarks!r}, {WRITTEN}\n{WRITES}", tmp_path)
    folders = {spec_of(arch).weights[0].repository: tmp_path / arch for arch in WRITTEN}
    hub = serve(
        {
            name: {part: (folder / part).read_bytes() for part in (SAFE, CONFIG)}
            for name, folder in folders.items()
        }
    )
    for arch, (repository, folder) in zip(WRITTEN, folders.items(), strict=True):
        found = from_hub(arch, tmp_path / "cache", hub.endpoint, repository)
        wanted, written = load_file(folder / SAFE), export_state_dict(found.variables, arch)
        assert written.keys() == wanted.keys()
        for name, value in wanted.items():
            assert written[name].dtype == value.dtype, name
            np.testing.assert_array_equal(written[name], value, name)
        said = json.loads((folder / CONFIG).read_text())["pretrained_cfg"]
        size = said.get("test_input_size", said["input_size"])[1]
        assert (found.size, found.remarks) == (size, ())
        crop = said.get("test_crop_pct", said["crop_pct"])
        assert found.view == View(crop, said["interpolation"])
        assert found.normalization == Normalization(tuple(said["mean"]), tuple(said["std"]))
        assert found.licence == said["license"]


TAG = "timm/resnet18.fb_swsl_ig1b_ft_in1k"


@pytest.mark.parametrize("weights", ["fb_swsl_ig1b_ft_in1k", f"{TAG}", "me/mine"])
def test_a_tag_and_a_repository_bring_what_timm_says(weights, serve, swsl, variables, tmp_path):
    """Weights and what timm says about them are fetched by a tag or from any repository.

    After that, no hub is needed.
    """
    hub = serve({TAG: swsl, "me/mine": swsl})
    for _ in range(2):
        found = from_hub("resnet18", tmp_path, hub.endpoint, weights)
        assert_equal(found.variables, variables[1000])
        assert (found.normalization, found.normalized_by) == (IMAGENET, CONFIG)
        assert (found.view, found.licence) == (View(0.875), "cc-by-nc-4.0")
        line = describe(found, "a new head")
        assert line.startswith(f"weights: {weights if '/' in weights else TAG}; mean 0.485")
        assert "tested at 224 pixels" in line
        assert "licence cc-by-nc-4.0, which forbids commercial use" in line
        hub.stop()


def test_a_revision_is_another_file_and_is_named(serve, swsl, variables, tmp_path):
    older = {SAFE: save(export_state_dict(variables[3], "resnet18"))}
    hub = serve({"me/mine": swsl, "me/mine@v1": older})
    found = from_hub("resnet18", tmp_path, hub.endpoint, "me/mine@v1")
    assert_equal(found.variables, variables[3])
    assert found.origin == "me/mine@v1"
    assert found.view == WHOLE, "its own commit has no config.json"
    newest = from_hub("resnet18", tmp_path, hub.endpoint, "me/mine")
    assert_equal(newest.variables, variables[1000])
    line = refusal(from_hub, "resnet18", tmp_path, hub.endpoint, "me/mine@v2")
    assert line == "me/mine@v2: the hub has no such revision"


def test_pytorchs_file_is_read_where_there_is_no_other(serve, of_torch, variables, tmp_path):
    hub = serve({TAG: {BIN: of_torch, CONFIG: SWSL.read_bytes()}})
    found = from_hub("resnet18", tmp_path, hub.endpoint, TAG)
    assert_equal(found.variables, variables[1000])
    assert found.licence == "cc-by-nc-4.0"


def test_pytorchs_file_is_fetched_once_and_then_needs_no_hub(serve, tmp_path, monkeypatch):
    # Fetching only looks whether PyTorch is there.
    there = ModuleType("torch")
    there.__spec__ = ModuleSpec("torch", None)
    monkeypatch.setitem(sys.modules, "torch", there)
    hub = serve({"me/mine": {BIN: b"whatever", CONFIG: SWSL.read_bytes()}})
    place = place_of("me/mine", spec_of("resnet18"))
    file, asked = fetch(place, tmp_path, hub.endpoint), hub.asked.total()
    assert fetch(place, tmp_path, "http://127.0.0.1:9") == file
    assert (file.name, hub.asked.total()) == (BIN, asked)


def test_safetensors_are_fetched_even_if_pytorchs_file_is_in_the_cache(
    serve, swsl, tmp_path, monkeypatch
):
    """They hold the colours and the classes, and reading them executes nothing."""
    there = ModuleType("torch")
    there.__spec__ = ModuleSpec("torch", None)
    monkeypatch.setitem(sys.modules, "torch", there)
    hub = serve({"me/mine": swsl | {BIN: b"whatever"}})
    hf_hub_download("me/mine", BIN, cache_dir=tmp_path, endpoint=hub.endpoint)
    assert fetch(place_of("me/mine", spec_of("resnet18")), tmp_path, hub.endpoint).name == SAFE


def test_pytorchs_file_in_the_cache_is_not_in_the_way_without_pytorch(
    serve, swsl, variables, tmp_path, monkeypatch
):
    """Another program may have fetched it from a repository that also has a file that is read."""
    hub = serve({"me/mine": swsl | {BIN: b"whatever"}})
    for name in (BIN, CONFIG):
        hf_hub_download("me/mine", name, cache_dir=tmp_path, endpoint=hub.endpoint)
    monkeypatch.setitem(sys.modules, "torch", None)
    found = from_hub("resnet18", tmp_path, hub.endpoint, "me/mine")
    assert_equal(found.variables, variables[1000])


def test_without_pytorch_its_file_is_not_even_fetched(serve, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    hub = serve({TAG: {BIN: b"whatever"}})
    line = refusal(from_hub, "resnet18", tmp_path, hub.endpoint, TAG)
    assert line.startswith(f"{TAG}: the hub has only its {BIN}; reading it needs PyTorch")
    assert "pip install -e '.[torch]'" in line
    assert hub.asked["GET"] == 0


def test_without_a_description_what_is_known_here_is_taken(serve, swsl, tmp_path):
    """Without a config.json, what is known here about the weights is used.

    If nothing is known about them, `normalized_by` says that the normalization is a guess.
    """
    hub = serve({TAG: {SAFE: swsl[SAFE]}, "me/mine": {SAFE: swsl[SAFE]}})
    known = from_hub("resnet18", tmp_path, hub.endpoint, TAG)
    assert (known.view, known.licence) == (View(0.875), "cc-by-nc-4.0")
    assert (known.normalization, known.normalized_by) == (IMAGENET, TAG)
    assert (known.size, known.remarks) == (224, ())
    unknown = from_hub("resnet18", tmp_path, hub.endpoint, "me/mine")
    assert (unknown.view, unknown.licence) == (WHOLE, None)
    assert "nothing says which values the weights were trained with" in unknown.normalized_by


def test_a_licence_and_a_size_that_the_description_lacks_are_those_of_the_tag(
    serve, swsl, tmp_path
):
    """A line names a licence that forbids commercial use, even if timm's config.json has none."""
    said = json.loads(swsl[CONFIG])
    del said["pretrained_cfg"]["license"]
    del said["pretrained_cfg"]["input_size"]
    said["pretrained_cfg"]["crop_mode"] = "squash"
    hub = serve({TAG: {**swsl, CONFIG: json.dumps(said).encode()}})
    found = from_hub("resnet18", tmp_path, hub.endpoint, TAG)
    assert (found.normalized_by, found.licence) == (CONFIG, "cc-by-nc-4.0")
    assert (found.size, found.remarks) == (
        224,
        ("tested with the crop mode squash (--data.method)",),
    )


def test_of_all_licences_of_known_weights_those_that_forbid_commercial_use_are_told(variables):
    licences = {each.licence for arch in OURS for each in spec_of(arch).weights} - {None}
    found = {
        licence
        for licence in licences
        if "forbids commercial use"
        in describe(Pretrained(variables[3], IMAGENET, None, "x", licence=licence), "a new head")
    }
    assert found == {"cc-by-nc-4.0", "fair-noncommercial-research-license"}
    assert licences - found == {"apache-2.0", "bsd-3-clause", "dinov3-license"}


def test_the_guide_tells_of_every_tag_its_label_smoothing_and_whether_it_may_be_sold():
    guide = (Path(__file__).parents[2] / "docs" / "training.md").read_text("utf-8")
    table = guide.split("| tags | label smoothing |")[1].split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    of_tag = {pattern: row for row in rows for pattern in re.findall("`(.+?)`", row[0])}
    for each in (each for arch in OURS for each in spec_of(arch).weights):
        (row,) = {id(of_tag[at]): of_tag[at] for at in of_tag if fnmatch(each.tag, at)}.values()
        _, smoothing, _, sold = row
        assert smoothing
        assert ("forbidden" in sold) == bool(re.search("nc-|noncommercial", each.licence or "nd"))
        assert ("no licence" in sold) == (each.licence is None)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("a1_in2k", "no such tag; its tags are tv_in1k, a1_in1k, .*did you mean a1_in1k"),
        (
            "me/no",
            "me/no: there is no such file or folder here, and no such public repository",
        ),
        (
            "runs/2026-11-26-cats--dogs",
            r"cats--dogs: there is no such run, file or folder, and a repository .* jaxch5 runs$",
        ),
        ("runs/2026-11-26-", "2026-11-26-: there is no such run, file or folder, and a repository"),
        (
            "timm/resnet18.a1_in2k",
            "no such public repository on the hub; the tags of resnet18 are tv_in1k, a1_in1k, "
            ".*did you mean a1_in1k",
        ),
        ("me/empty", f"me/empty: holds neither {SAFE} nor {BIN}"),
        (
            "timm/resnet50.a1_in1k",
            r"belongs to resnet50, not to .* \(--model.arch resnet50\)",
        ),
        ("me/other", r"config.json: architecture = resnet18d, which is not resnet18 \(--model"),
    ],
)
def test_what_is_not_there_is_named_with_a_way_out(weights, said, serve, pets, tmp_path):
    hub = serve({"me/empty": {}, "me/other": pets})
    with pytest.raises(WeightsError, match=said) as raised:
        from_hub("resnet18", tmp_path, hub.endpoint, weights)
    assert "\n" not in str(raised.value)


def test_a_specification_without_tags_lists_none(serve, tmp_path):
    spec = replace(spec_of("resnet18"), name="resnet26", weights=())
    said = refusal(from_hub, spec, tmp_path, serve({}).endpoint, "timm/resnet26.bt_in2k")
    assert "no such public repository on the hub" in said
    assert "the tags of" not in said
    assert "pass the file with --model.weights PATH" in said


def test_weights_whose_description_did_not_arrive_are_not_read_without_it(serve, swsl, tmp_path):
    """A second attempt reads the mean and deviation too; the weights are fetched only once."""
    half = json.loads(swsl[CONFIG])
    half["pretrained_cfg"] |= {"mean": [0.5] * 3, "std": [0.5] * 3}
    hub = serve({"me/mine": swsl | {CONFIG: json.dumps(half).encode()}})
    hub.trouble = "no description"
    for _ in range(2):
        said = refusal(from_hub, "resnet18", tmp_path, hub.endpoint, "me/mine")
        assert "me/mine: the hub cannot be reached" in said
    hub.trouble = None
    found = from_hub("resnet18", tmp_path, hub.endpoint, "me/mine")
    assert found.normalization == Normalization((0.5,) * 3, (0.5,) * 3)
    assert hub.asked["GET"] == 2


def test_the_description_of_unknown_weights_is_fetched_before_them(serve, swsl, tmp_path):
    """So a process that is killed in between leaves no weights that seem to have no description."""
    hub = serve({"me/mine": swsl})
    hub.trouble = "no weights"
    for _ in range(2):
        said = refusal(from_hub, "resnet18", tmp_path, hub.endpoint, "me/mine")
        assert "me/mine: the hub" in said
        assert [*tmp_path.glob("*/snapshots/*/config.json")]
        assert not [*tmp_path.glob("*/snapshots/*/model.safetensors")]


def test_known_weights_whose_description_did_not_arrive_can_be_used_offline(
    serve, swsl, variables, tmp_path, monkeypatch
):
    """What is known here about the weights replaces their description."""
    hub = serve({TAG: swsl})
    hub.trouble = "no description"
    assert "cannot be reached" in refusal(from_hub, "resnet18", tmp_path, hub.endpoint, TAG)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    found = from_hub("resnet18", tmp_path, hub.endpoint, TAG)
    assert_equal(found.variables, variables[1000])
    assert (found.normalization, found.normalized_by) == (IMAGENET, TAG)


def test_offline_a_repository_is_refused_soon(serve, swsl, tmp_path, monkeypatch):
    hub = serve({"me/mine": swsl})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refusal(from_hub, "resnet18", tmp_path, hub.endpoint, "me/mine")
    assert hub.asked.total() == 0


@pytest.fixture
def folder(pets, tmp_path):
    for name, content in pets.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_a_folder_is_like_a_repository(folder, random_variables):
    found = find_weights(folder, "resnet18d")
    assert_equal(found.variables, random_variables("resnet18d", 3))
    assert found.classes == ("cat", "dog", "fish")
    assert (found.view, found.licence) == (View(0.95, "bicubic"), "apache-2.0")
    _, fate = transfer(found.variables, found, ("cat", "dog", "fish"), "linear")
    line = describe(found, fate)
    assert "evaluation sees 0.95 of the short side, with a bicubic filter" in line
    assert "their head is kept" in line
    grey = Normalization((0.5,) * 3, (0.5,) * 3)
    assert find_weights(folder, "resnet18d", grey).normalization == grey


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_classes": 1000}, "num_classes states 1000 outputs, but the head of .* has 3"),
        ({"label_names": ["cat", "dog"]}, "label_names states 2 outputs, but the head of .* has 3"),
        ({"architecture": "resnet18"}, r"architecture = resnet18, which is not resnet18d"),
        ({"pretrained_cfg": {"mean": [0.5], "std": [0.5] * 3}}, "mean = .*--model.mean and"),
        ({"pretrained_cfg": {"crop_pct": 95}}, "crop_pct = 95: .* correct it, or move the file"),
    ],
)
def test_a_description_that_contradicts_the_file_is_an_error_that_says_where(change, said, folder):
    values = json.loads(PETS.read_text()) | change
    (folder / CONFIG).write_text(json.dumps(values))
    for weights in (folder, folder / SAFE):
        with pytest.raises(WeightsError, match=said) as raised:
            find_weights(weights, "resnet18d")
        assert str(raised.value).startswith(f"{folder / CONFIG}: ")
        assert "\n" not in str(raised.value)


def test_another_librarys_name_of_the_architecture_is_no_contradiction_of_a_named_file(folder):
    values = json.loads(PETS.read_text()) | {"architecture": "their_resnet18d"}
    (folder / CONFIG).write_text(json.dumps(values))
    line = refusal(find_weights, folder, "resnet18d")
    assert line.endswith(f"(--model.weights {folder / SAFE} ignores this)")
    found = find_weights(folder / SAFE, "resnet18d")
    assert found.remarks == (f"{CONFIG} beside it describes their_resnet18d and is ignored",)


def test_a_file_without_a_head_is_taken_and_has_no_classes_to_contradict(folder, random_variables):
    state_dict = export_state_dict(random_variables("resnet18d", 3), "resnet18d")
    body = {name: value for name, value in state_dict.items() if not name.startswith("fc.")}
    (folder / SAFE).write_bytes(save(body))
    found = find_weights(folder, "resnet18d")
    assert "head" not in found.variables["params"]
    assert found.view == View(0.95, "bicubic")


def test_a_filter_that_is_not_known_is_said(folder):
    values = json.loads(PETS.read_text())
    values["pretrained_cfg"]["interpolation"] = "lanczos"
    (folder / CONFIG).write_text(json.dumps(values))
    found = from_file(folder / SAFE, "resnet18d")
    assert found.view == View(0.95)
    assert "their filter lanczos is not known here (--data.interpolation)" in found.remarks


def test_names_and_paths_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "one").mkdir(parents=True)
    on_hub = ["imagenet", "a1_in1k", "resnet18.a1_in1k", "timm/resnet18.a1_in1k@v1", "runs/two"]
    assert all(map(is_on_hub, on_hub))
    paths = [
        "none",
        "auto",
        "runs/one",
        "runs",
        "gone.safetensors",
        "a/b.pth",
        "/a/b",
        "./a",
        "~/a",
    ]
    assert not any(map(is_on_hub, paths))
    for refused in (is_on_hub, partial(find_weights, arch="resnet18")):
        with pytest.raises(ConfigError, match=r"^~nobody-here/w\.pth: .* mean ~/nobody-here"):
            refused("~nobody-here/w.pth")
    with pytest.raises(ConfigError, match="there is no such home folder"):
        ModelConfig(weights="~nobody-here/w.pth")
    named = ModelConfig(weights="a1_in1k"), ModelConfig(weights="runs/one")
    assert [config.weights for config in named] == ["a1_in1k", str(tmp_path / "runs" / "one")]


@pytest.mark.slow
def test_what_was_said_travels_with_a_learners_file_and_an_export(folder, tmp_path):
    data = DataBlock(digits(), random_split(), presize=32, size=32).load(batch_size=64)
    learn = vision_learner(data, "resnet18d", folder, head="linear", say=[].append)
    for form in ("learner", "safetensors"):
        learn.export(tmp_path / f"{form}.safetensors", form)
    about = load_learner(tmp_path / "learner.safetensors").about
    assert (about.view, about.licence) == (View(0.95, "bicubic"), "apache-2.0")
    assert timm_config(learn.predictor())["pretrained_cfg"]["license"] == "apache-2.0"
    (folder / CONFIG).unlink()
    again = find_weights(tmp_path / "safetensors.safetensors", "resnet18d")
    assert (again.view, again.licence) == (View(0.95, "bicubic"), "apache-2.0")
    assert again.size == 32
    assert learn._about()["licence"] == "apache-2.0"
