"""PyTorch takes what export_state_dict gives, and computes the same with it; and the way in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxch5.models.resnet import create_model
from jaxch5.models.weights import export_state_dict, import_state_dict

CLASSES = 5
# Beside the pictures: state dicts of what goes out, and of what comes in.
OUT = {
    "linear18": ("resnet18", "linear"),
    "linear50": ("resnet50", "linear"),
    "concat_pool18": ("resnet18", "concat_pool"),
}
IN = {"torchvision18": "resnet18", "torchvision50": "resnet50"}

# Loads every state dict, which fails where a name or a shape is not its own, and saves its logits;
# then draws networks of its own, with statistics of a batch, and saves them with theirs.
PROGRAM = """
import sys
import numpy as np
import torch

try:
    import torchvision
except RuntimeError:  # Operators for detection, which no ResNet has, are not in every build.
    for name in [name for name in sys.modules if name.startswith("torchvision")]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision
from fastai.vision.learner import create_head

pictures = torch.from_numpy(np.load("pictures.npy").transpose(0, 3, 1, 2).copy())


def net(arch):
    return getattr(torchvision.models, arch)(num_classes=CLASSES)


def save_logits(name, model):
    with torch.no_grad():
        np.save(name + ".logits.npy", model.eval()(pictures).numpy())


for name, (arch, head) in OUT.items():
    entries = {key: torch.from_numpy(value) for key, value in np.load(name + ".npz").items()}
    model = net(arch)
    if head == "linear":
        model.load_state_dict(entries, strict=True)
    else:
        top = {key[5:]: entries.pop(key) for key in list(entries) if key.startswith("head.")}
        model.fc = torch.nn.Identity()
        model.load_state_dict(entries, strict=True)
        last = create_head(512, CLASSES)
        last.load_state_dict(top, strict=True)
        stem_and_stages = list(model.children())[:8]
        model = torch.nn.Sequential(*stem_and_stages, last)
    save_logits(name, model)

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
    return np.random.default_rng(1).standard_normal((2, 64, 64, 3), np.float32)


@pytest.fixture(scope="module")
def outgoing(random_variables):
    return {name: random_variables(arch, CLASSES, head) for name, (arch, head) in OUT.items()}


@pytest.fixture(scope="module")
def exchange(peer, outgoing, pictures, tmp_path_factory):
    """A folder with the state dicts of OUT and of IN, and PyTorch's logits with each."""
    folder = tmp_path_factory.mktemp("exchange")
    np.save(folder / "pictures.npy", pictures)
    for name, (arch, _) in OUT.items():
        np.savez(folder / name, **export_state_dict(outgoing[name], arch))
    peer(f"CLASSES, OUT, IN = {CLASSES}, {OUT}, {IN}\n{PROGRAM}", folder)
    return folder


def assert_same_logits(variables, arch, head, pictures, expected):
    with jax.default_matmul_precision("highest"):
        model = create_model(arch, CLASSES, head)
        logits = model.apply(variables, jnp.asarray(pictures), train=False)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", OUT)
def test_pytorch_computes_the_same_with_exported_weights(name, exchange, outgoing, pictures):
    """torchvision's network, or its body under fastai's head, has loaded them strictly."""
    arch, head = OUT[name]
    expected = np.load(exchange / f"{name}.logits.npy")
    assert_same_logits(outgoing[name], arch, head, pictures, expected)


@pytest.mark.parametrize("name", IN)
def test_weights_of_torchvision_compute_the_same_here(name, exchange, pictures):
    arch = IN[name]
    variables = import_state_dict(np.load(exchange / f"{name}.npz"), arch)
    expected = np.load(exchange / f"{name}.logits.npy")
    assert_same_logits(variables, arch, "linear", pictures, expected)
