"""Pretrained weights are read exactly, or one line names the file, the fault and a way out."""

import io
import json
import os
import pickle
import socket
import struct
import sys
import time

import jax
import ml_dtypes
import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import load_file, save_file

from jaxch5.models.pretrained import flax_names, from_file, from_hub
from jaxch5.models.registry import spec_of
from jaxch5.models.spec import IMAGENET
from jaxch5.models.weights import export_state_dict
from jaxch5.view import View
from tests.models.shared import assert_equal, refusal

REPOSITORY = spec_of("resnet18").weights[0].repository
ON_THE_HUB = f"/{REPOSITORY}/resolve/main/model.safetensors"


@pytest.fixture(scope="module")
def variables(random_variables):
    return random_variables("resnet18")


@pytest.fixture(scope="module")
def state_dict(variables):
    return export_state_dict(variables, "resnet18")


@pytest.fixture(scope="module")
def whole(state_dict, tmp_path_factory):
    """Provides an intact file of weights, which states its own normalization and classes."""
    file = tmp_path_factory.mktemp("whole") / "resnet18.safetensors"
    said = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "classes": ["cat", "dog", "Ö"]}
    save_file(state_dict, file, {name: json.dumps(value) for name, value in said.items()})
    return file


@pytest.fixture
def hub(whole, serve):
    return serve({REPOSITORY: {"model.safetensors": whole.read_bytes()}})


def test_imagenets_weights_are_fetched_once(hub, variables, tmp_path):
    """ImageNet's weights are fetched once; after that, they are read without a hub.

    Their normalization is the one known here, not the one in the file's metadata.
    """

    def fetched():
        return from_hub("resnet18", cache=tmp_path, endpoint=hub.endpoint)

    first = fetched()
    assert_equal(first.variables, variables)
    assert first.normalization == spec_of("resnet18").normalization == IMAGENET
    assert first.view == View(0.875, "bilinear")
    assert first.origin == REPOSITORY
    assert hub.asked["GET"] == 1
    asked = hub.asked.total()
    assert_equal(fetched().variables, variables)
    assert hub.asked.total() == asked
    hub.stop()
    assert_equal(fetched().variables, variables)


@pytest.mark.parametrize("trouble", [404, 401, 500, 503, "hangs up", "other size"])
def test_a_hub_that_does_not_give_them_is_named_soon(hub, trouble, tmp_path):
    hub.trouble = trouble
    began = time.perf_counter()
    line = refusal(from_hub, "resnet18", cache=tmp_path, endpoint=hub.endpoint)
    assert time.perf_counter() - began < 15
    assert f"download {hub.endpoint}{ON_THE_HUB} elsewhere" in line
    assert "--model.weights PATH" in line
    assert str(trouble) in line or isinstance(trouble, str)


@pytest.mark.parametrize("trouble", ["a path for an etag", "a path for a commit"])
def test_a_hub_cannot_name_a_file_elsewhere(hub, trouble, tmp_path):
    """The hub's etags and commits are refused if they are paths.

    They become names of files in the cache, and a path could lead out of it.
    """
    hub.trouble = trouble
    cache = tmp_path / "a" / "b"
    line = refusal(from_hub, "resnet18", cache=cache, endpoint=hub.endpoint)
    assert "outside" in line
    assert not list(tmp_path.rglob("outside*"))
    assert hub.asked["GET"] == 0


@pytest.mark.parametrize("listens", [False, True])
def test_a_hub_that_gives_no_answer_is_named_soon(listens, tmp_path, monkeypatch):
    """A hub that refuses connections, or accepts them but never answers, is named within 15 s."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        if not listens:
            silent.close()
        began = time.perf_counter()
        line = refusal(from_hub, "resnet18", cache=tmp_path, endpoint=endpoint)
    assert time.perf_counter() - began < 15
    assert "the hub cannot be reached (" in line
    assert f"download {endpoint}{ON_THE_HUB} elsewhere" in line
    assert "--model.weights PATH" in line


def test_offline_mode_asks_nobody_and_reads_what_is_there(hub, variables, tmp_path, monkeypatch):
    from_hub("resnet18", cache=tmp_path / "full", endpoint=hub.endpoint)
    asked = hub.asked.total()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    line = refusal(from_hub, "resnet18", cache=tmp_path / "empty", endpoint=hub.endpoint)
    assert "the hub cannot be reached (" in line
    assert "HF_HUB_OFFLINE" in line
    assert "--model.weights PATH" in line
    cached = from_hub("resnet18", cache=tmp_path / "full", endpoint=hub.endpoint)
    assert_equal(cached.variables, variables)
    assert hub.asked.total() == asked


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_safetensors_of_every_precision_are_read(dtype, state_dict, variables, tmp_path):
    """Weights of every float type are read exactly, as float32.

    A file that states no normalization gets ImageNet's.
    """
    file = tmp_path / "weights.safetensors"
    save_file({name: np.asarray(value, dtype) for name, value in state_dict.items()}, file)
    read = from_file(file, "resnet18")
    rounded = jax.tree.map(lambda leaf: leaf.astype(dtype).astype(np.float32), variables)
    assert_equal(read.variables, rounded)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(read.variables)} == {"float32"}
    assert (read.normalization, read.classes) == (IMAGENET, None)


def test_a_parameter_that_is_one_number_keeps_its_shape(tmp_path):
    """A scalar, such as the temperature of a user's own network, is saved as a scalar.

    NumPy's `ascontiguousarray` would make an array of one number from it.
    """
    values = {"params": {"scale": np.float32(2), "turned": np.ones((2, 3), np.float32).T}}
    save_file(flax_names(values), tmp_path / "w.safetensors")
    read = load_file(tmp_path / "w.safetensors")
    assert {name: value.shape for name, value in read.items()} == {
        "params/scale": (),
        "params/turned": (3, 2),
    }


def test_normalization_and_classes_travel_with_a_file(whole):
    read = from_file(whole, "resnet18")
    assert read.normalization == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert read.classes == ("cat", "dog", "Ö")
    assert read.origin == str(whole)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mean", "no JSON"),
        ("mean", "[0.1, 0.2]"),
        ("std", "0.5"),
        ("std", "[0.5, 0.5, 0]"),
        ("classes", "3"),
        ("classes", "[1, 2, 3]"),
    ],
)
def test_metadata_that_cannot_be_meant_are_named(name, value, state_dict, tmp_path):
    file = tmp_path / "weights.safetensors"
    save_file(state_dict, file, {name: value})
    assert refusal(from_file, file, "resnet18").startswith(f"{file}: {name} in its metadata: ")


def test_a_file_cut_short_is_named(whole, tmp_path):
    """A truncated file is named, whether it ends in its header's length, header or numbers."""
    content = whole.read_bytes()
    header = 8 + struct.unpack("<Q", content[:8])[0]
    file = tmp_path / "weights.safetensors"
    for length in (0, 1, 8, header // 2, header, header + 1000, len(content) - 1):
        file.write_bytes(content[:length])
        assert refusal(from_file, file, "resnet18").startswith(f"{file}: is cut short")


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("text.safetensors", "is cut short or not a safetensors file"),
        ("weights.h5", r"should end in .safetensors, .pth or .pt"),
        ("folder.safetensors", "there is no such file"),
        ("gone.safetensors", "there is no such file"),
    ],
)
def test_what_is_no_file_of_weights_is_named(name, end, tmp_path):
    (tmp_path / "text.safetensors").write_text("these are no weights\n" * 100)
    (tmp_path / "weights.h5").write_bytes(b"\x89HDF")
    (tmp_path / "folder.safetensors").mkdir()
    line = refusal(from_file, tmp_path / name, "resnet18")
    assert line.startswith(f"{tmp_path / name}: {end}")


@pytest.mark.parametrize(
    ("change", "end"),
    [
        (lambda d: d.pop("layer4.1.conv2.weight"), "layer4.1.conv2.weight is missing"),
        (lambda d: d.update(extra=np.zeros(1)), "extra is not part of it"),
        (lambda d: d.update({"bn1.bias": np.zeros(65)}), "bn1.bias has shape (65,) instead of"),
        (lambda d: d.update({"bn1.bias": np.zeros((64, 1))}), "bn1.bias has shape (64, 1) instead"),
        (lambda d: d.update({"fc.bias": np.zeros(())}), "fc.bias has shape () instead of (1,)"),
    ],
)
def test_a_wrong_entry_of_a_file_is_named(change, end, state_dict, tmp_path):
    file, damaged = tmp_path / "weights.safetensors", dict(state_dict)
    change(damaged)
    save_file(damaged, file)
    line = refusal(from_file, file, "resnet18")
    assert line.startswith(f"{file}: weights of resnet18: {end}")


def test_a_file_without_entries_is_named(tmp_path):
    file = tmp_path / "weights.safetensors"
    save_file({}, file)
    assert refusal(from_file, file, "resnet18") == f"{file}: holds no state dict"


@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_of_another_architecture_are_named(prefix, random_variables, tmp_path):
    file = tmp_path / "weights.safetensors"
    other = export_state_dict(random_variables("resnet34"), "resnet34")
    save_file({prefix + name: value for name, value in other.items()}, file)
    line = refusal(from_file, file, "resnet18")
    assert line == f"{file}: holds weights of resnet34, not of resnet18 (--model.arch resnet34)"


def test_without_pytorch_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    file = tmp_path / "weights.pth"
    file.write_bytes(b"anything")
    line = refusal(from_file, file, "resnet18")
    assert line.startswith(f"{file}: ")
    assert "pip install -e '.[torch]'" in line


@pytest.fixture
def saved(tmp_path):
    """Provides a function that saves something with `torch.save` and returns the file."""
    torch = pytest.importorskip("torch")

    def save(content, **named):
        torch.save(content, tmp_path / "weights.pth", **named)
        return tmp_path / "weights.pth"

    return save


@pytest.fixture
def tensors(state_dict):
    torch = pytest.importorskip("torch")
    return {name: torch.from_numpy(value) for name, value in state_dict.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tensors: tensors,
        lambda tensors: {"state_dict": tensors, "epoch": 3},
        lambda tensors: {"model": tensors, "opt": {"lr": 0.1}},
        lambda tensors: {f"module.{name}": value for name, value in tensors.items()},
    ],
    ids=["plain", "state_dict", "model", "module."],
)
def test_files_of_pytorch_are_read_as_they_are_written(wrap, saved, tensors, variables):
    read = from_file(saved(wrap(tensors)), "resnet18")
    assert_equal(read.variables, variables)
    assert (read.normalization, read.classes) == (IMAGENET, None)


def test_parameters_and_half_precision_are_read(saved, tensors, variables):
    """Parameters that require gradients, as in `dict(model.named_parameters())`, are read too."""
    torch = pytest.importorskip("torch")
    half = {
        name: torch.nn.Parameter(value.bfloat16()) if value.is_floating_point() else value
        for name, value in tensors.items()
    }
    rounded = jax.tree.map(lambda x: x.astype(ml_dtypes.bfloat16).astype(np.float32), variables)
    assert_equal(from_file(saved(half), "resnet18").variables, rounded)


@pytest.mark.parametrize("new", [True, False])
def test_a_file_of_pytorch_cut_short_is_named(new, saved):
    """A truncated file in either of PyTorch's formats is named, wherever it ends."""
    torch = pytest.importorskip("torch")
    file = saved({"fc.bias": torch.zeros(3)}, _use_new_zipfile_serialization=new)
    content = file.read_bytes()
    for length in range(0, len(content), 1 + len(content) // 100):
        file.write_bytes(content[:length])
        assert refusal(from_file, file, "resnet18").startswith(f"{file}: is ")


class Malicious:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.system, (f"mkdir {self.folder}",)


@pytest.mark.parametrize("how", ["torch", "torch, old format", "pickle"])
def test_a_malicious_file_is_refused_and_does_not_run(how, saved, tmp_path):
    torch = pytest.importorskip("torch")
    content = {"fc.bias": torch.zeros(3), "more": Malicious(tmp_path / "ran")}
    file = saved(content, _use_new_zipfile_serialization=how == "torch")
    if how == "pickle":
        file.write_bytes(pickle.dumps(Malicious(tmp_path / "ran"), protocol=2))
    line = refusal(from_file, file, "resnet18")
    assert line.startswith(f"{file}: is refused")
    assert not (tmp_path / "ran").exists()
    # Unpickling such an object does make the folder, which shows that the check above can fail.
    pickle.load(io.BytesIO(pickle.dumps(Malicious(tmp_path / "ran"))))
    assert (tmp_path / "ran").exists()


def test_a_whole_module_is_refused(saved):
    torch = pytest.importorskip("torch")
    file = saved(torch.nn.Linear(2, 3))
    assert refusal(from_file, file, "resnet18").startswith(f"{file}: is refused")


@pytest.mark.parametrize("content", [[1], {"fc.bias": 3}, {"model": 3}, {0: "tensor"}])
def test_a_file_without_a_state_dict_is_named(content, saved):
    torch = pytest.importorskip("torch")
    if content == {0: "tensor"}:
        content = {0: torch.zeros(3)}
    file = saved(content)
    assert refusal(from_file, file, "resnet18") == f"{file}: holds no state dict"
