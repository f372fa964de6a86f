"""PyTorch's networks and ours compute the same logits with each other's weights."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxch5.cli import run as run_command
from jaxch5.export import FILES, ExportOptions, export
from jaxch5.models.layers import normalize
from jaxch5.models.registry import create_model
from jaxch5.models.spec import Normalization
from jaxch5.models.weights import import_state_dict
from jaxch5.results.about import About
from jaxch5.results.artifacts import write_artifact
from jaxch5.results.predictor import Predictor
from jaxch5.run.transfer import find_weights

ROOT = Path(__file__).parent.parent.parent
CLASSES = ("a", "b", "c", "d", "é")
SIZE = 64
# `OUT` has learners, with the formats in which they are exported for PyTorch. `IN`, below, has
# torchvision's networks whose weights are imported.
OUT = {
    f"{head}{depth}": (f"resnet{depth}", head, formats)
    for head, formats in (
        ("linear", ("safetensors", "timm")),
        ("concat_pool", ("safetensors", "fastai")),
    )
    for depth in (18, 50)
}
LIBRARIES = ("torchvision", "timm", "fastai")
IN = {"torchvision18": "resnet18", "torchvision50": "resnet50"}

# Loads every file, which fails if a name or a shape is not the network's, and saves the logits.
# Then makes torchvision's networks with random weights and the statistics of a batch, and saves
# their weights and logits. A learner's architecture, classes and normalization are read from its
# file.
PROGRAM = """
import json, sys
import numpy as np
import torch

sys.path.append(BENCHMARKS)
from peer import declare_torchvision_operators

declare_torchvision_operators()
import timm
import torchvision
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.vision.learner import create_head, vision_learner
from safetensors import safe_open
from safetensors.torch import load_file
from timm.models import load_checkpoint

pictures = torch.from_numpy(np.load("pictures.npy").transpose(0, 3, 1, 2).copy())
data = DataLoaders.from_dsets([(pictures[0], 0)], [(pictures[1], 1)], bs=1)
loss = CrossEntropyLossFlat()


def net(arch, classes=CLASSES):
    return getattr(torchvision.models, arch)(num_classes=classes)


def save_logits(name, model, pictures=pictures):
    with torch.no_grad():
        np.save(name + ".logits.npy", model.eval()(pictures).numpy())


def body_of(entries, model=None):
    return {name: value for name, value in entries.items() if not name.startswith("head.")}


class Headed(torch.nn.Module):
    # A body under a head of fastai's, which loads what begins with `head.`.
    def __init__(self, body, features, entries, classes):
        super().__init__()
        self.body, self.head = body, create_head(features, classes)
        head = {name[5:]: value for name, value in entries.items() if name.startswith("head.")}
        self.head.load_state_dict(head, strict=True)

    def forward(self, x):
        return self.head(self.body(x))


def linear(name, arch, classes):
    file = name + "/model.safetensors"
    of_torchvision = net(arch, classes)
    of_torchvision.load_state_dict(load_file(file), strict=True)
    of_timm = timm.create_model(arch, num_classes=classes)
    of_timm.load_state_dict(load_file(file), strict=True)
    by_path = timm.create_model(arch, num_classes=classes)
    load_checkpoint(by_path, file, strict=True)
    assert all(map(torch.equal, by_path.state_dict().values(), of_timm.state_dict().values()))
    by_folder = timm.create_model(f"local-dir:{name}/model-timm", pretrained=True)
    assert all(map(torch.equal, by_folder.state_dict().values(), of_timm.state_dict().values()))
    said = by_folder.pretrained_cfg
    assert said["label_names"] == LABELS and tuple(said["input_size"]) == (3, *pictures.shape[2:])
    assert list(timm.data.resolve_model_data_config(by_folder)["mean"]) == list(said["mean"])
    learner = Learner(data, net(arch, classes), loss_func=loss)
    learner.model.load_state_dict(load_file(file), strict=True)
    return {"torchvision": of_torchvision, "timm": of_timm, "fastai": learner.model}


def concat_pool(name, arch, classes):
    file = name + "/model.safetensors"
    entries = load_file(file)
    of_torchvision = net(arch)
    features, of_torchvision.fc = of_torchvision.fc.in_features, torch.nn.Identity()
    of_torchvision.load_state_dict(body_of(entries), strict=True)
    of_timm = timm.create_model(arch, num_classes=0, global_pool="")
    of_timm.load_state_dict(body_of(entries), strict=True)
    by_path = timm.create_model(arch, num_classes=0)
    load_checkpoint(by_path, file, strict=True, filter_fn=body_of)
    assert all(map(torch.equal, by_path.state_dict().values(), of_timm.state_dict().values()))
    learner = vision_learner(
        data, getattr(torchvision.models, arch), pretrained=False, n_out=classes, loss_func=loss
    )
    learner.model.load_state_dict(load_file(name + "/fastai.safetensors"), strict=True)
    stages = torch.nn.Sequential(*list(of_torchvision.children())[:8])
    return {
        "torchvision": Headed(stages, features, entries, classes),
        "timm": Headed(of_timm, features, entries, classes),
        "fastai": learner.model,
    }


for name in OUT:
    with safe_open(name + "/model.safetensors", "pt") as file:
        said = file.metadata()
    mean, std = (torch.tensor(json.loads(said[key])).view(3, 1, 1) for key in ("mean", "std"))
    load = {"linear": linear, "concat_pool": concat_pool}[said["head"]]
    models = load(name, said["architecture"], len(json.loads(said["classes"])))
    for library, model in models.items():
        save_logits(f"{name}/{library}", model, (pictures - mean) / std)

torch.manual_seed(0)
for name, arch in IN.items():
    model = net(arch)
    with torch.no_grad():
        model.train()(pictures)
    np.savez(name, **{key: value.numpy() for key, value in model.state_dict().items()})
    save_logits(name, model)
"""


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(1).random((2, SIZE, SIZE, 3), np.float32)


@pytest.fixture(scope="module")
def learners(random_variables):
    return {
        name: Predictor(
            create_model(arch, len(CLASSES), head),
            random_variables(arch, len(CLASSES), head),
            CLASSES,
            Normalization((0.4, 0.5, 0.6), (0.2, 0.3, 0.25)),
            About(arch, head, "fp32", presize=SIZE, size=SIZE),
        )
        for name, (arch, head, _) in OUT.items()
    }


@pytest.fixture(scope="module")
def exchange(peer, learners, pictures, tmp_path_factory):
    """Provides a folder with exported learners, torchvision's networks, and logits from PyTorch."""
    folder = tmp_path_factory.mktemp("exchange")
    np.save(folder / "pictures.npy", pictures)
    for name, (_, _, formats) in OUT.items():
        (folder / name).mkdir()
        learner = folder / name / FILES["learner"]
        write_artifact(learners[name], learner, "learner")
        for form in formats:
            argv = [str(learner), "--format", form, "--out", str(folder / name / FILES[form])]
            assert run_command(export, ExportOptions, "jaxch5 export", argv) == 0
    names = f"BENCHMARKS = {str(ROOT / 'benchmarks')!r}\n"
    names += f"CLASSES, OUT, IN = {len(CLASSES)}, {list(OUT)}, {IN}\nLABELS = {[*CLASSES]}\n"
    peer(names + PROGRAM, folder)
    return folder


def assert_same_logits(model, variables, pictures, expected):
    with jax.default_matmul_precision("highest"):
        logits = model.apply(variables, jnp.asarray(pictures), train=False)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", OUT)
def test_pytorch_computes_the_same_with_an_exported_file(
    name, library, exchange, learners, pictures
):
    """A network of each library loads the file strictly and has the learner's logits.

    If the head is fastai's, the networks of torchvision and timm load the body, under that head.
    """
    learner = learners[name]
    seen = normalize(jnp.asarray(pictures), learner.normalization)
    expected = np.load(exchange / name / f"{library}.logits.npy")
    assert_same_logits(learner.model, learner.variables, seen, expected)


@pytest.mark.parametrize("name", IN)
def test_weights_of_torchvision_compute_the_same_here(name, exchange, pictures):
    arch = IN[name]
    variables = import_state_dict(np.load(exchange / f"{name}.npz"), arch)
    expected = np.load(exchange / f"{name}.logits.npy")
    model = create_model(arch, len(CLASSES), "linear")
    assert_same_logits(model, variables, pictures, expected)


FOLDERS = ("resnet18d", "convnext_nano", "vit_small_patch14_reg4_dinov2")
LOADED = """
import sys
import numpy as np
import torch

sys.path.append(BENCHMARKS)
from peer import declare_torchvision_operators

declare_torchvision_operators()
import timm

pictures = torch.from_numpy(np.load("pictures.npy").transpose(0, 3, 1, 2).copy())
for name in FOLDERS:
    model = timm.create_model(f"local-dir:{name}", pretrained=True).eval()
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        np.save(name + ".npy", model((pictures - mean) / std).numpy())
"""


def test_timm_loads_the_folder_of_each_kind_of_network(peer, tmp_path):
    """timm computes the same logits with an exported folder of each kind of network.

    The vision transformer's positions are for the size at which it was trained.
    """
    rng, size = np.random.default_rng(0), 56
    pictures = rng.random((2, size, size, 3), np.float32)
    np.save(tmp_path / "pictures.npy", pictures)
    plain = Normalization((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    expected = {}
    heads = {"mean_of_patches": ("vit_small_patch14_dinov2", "mean_pool")}
    for folder in (*FOLDERS, *heads):
        arch, head = heads.get(folder, (folder, "linear"))
        model = create_model(arch, len(CLASSES), head)
        variables = model.init(jax.random.key(0), jnp.zeros((1, size, size, 3)), train=False)
        variables = jax.tree.map(lambda x: x * rng.uniform(0.5, 2, x.shape), variables)
        variables = jax.tree.map(jnp.float32, variables)
        about = About(arch, head, "fp32", presize=size, size=size)
        predictor = Predictor(model, variables, CLASSES, plain, about)
        write_artifact(predictor, tmp_path / folder, "timm")
        # What is exported comes back with its kind of head.
        assert find_weights(tmp_path / folder, arch).head == head
        with jax.default_matmul_precision("highest"):
            seen = normalize(jnp.asarray(pictures), plain)
            expected[folder] = np.asarray(model.apply(variables, seen, train=False))
    names = f"FOLDERS, BENCHMARKS = {[*expected]}, {str(ROOT / 'benchmarks')!r}\n"
    peer(names + LOADED, tmp_path)
    for folder, logits in expected.items():
        rms = np.sqrt(np.mean(logits**2))
        worst = np.abs(np.load(tmp_path / f"{folder}.npy") - logits).max() / rms
        assert worst <= 1e-5, folder
