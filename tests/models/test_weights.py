"""State dicts are imported and exported without changing a bit, and wrong entries are named."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxch5.errors import WeightsError
from jaxch5.models.registry import create_model
from jaxch5.models.weights import export_state_dict, import_state_dict
from tests.models.shared import assert_equal


def variables_of(arch, num_classes=3):
    init = partial(create_model(arch, num_classes).init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes)


@pytest.fixture(scope="module")
def state_dict():
    return export_state_dict(variables_of("resnet18"), "resnet18")


@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "resnet18d", "resnet50d"])
def test_the_way_out_and_back_changes_no_bit(arch):
    variables = variables_of(arch)
    again = import_state_dict(export_state_dict(variables, arch), arch)
    assert jax.tree.structure(again) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, again, variables)


def test_names_and_layouts_are_torchvisions(state_dict):
    shapes = {name: value.shape for name, value in state_dict.items()}
    assert len(shapes) == 122
    assert shapes["conv1.weight"] == (64, 3, 7, 7)
    assert shapes["layer2.0.downsample.0.weight"] == (128, 64, 1, 1)
    assert shapes["layer2.0.downsample.1.running_var"] == (128,)
    assert shapes["layer4.1.bn2.num_batches_tracked"] == ()
    assert shapes["fc.weight"] == (3, 512)
    kernel = variables_of("resnet18")["params"]["head"]["kernel"]
    np.testing.assert_array_equal(state_dict["fc.weight"], kernel.T)


def test_counters_may_be_absent(state_dict):
    without = {name: value for name, value in state_dict.items() if "tracked" not in name}
    assert len(without) == len(state_dict) - 20
    assert_equal(import_state_dict(without, "resnet18"), variables_of("resnet18"))


@pytest.mark.parametrize("library", ["", "fastai"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_state_dict_comes_back_with_its_counters(library, prefix):
    variables = variables_of("resnet18")
    counted = export_state_dict(variables, "resnet18", library)
    names = [name for name in counted if name.endswith("num_batches_tracked")]
    assert len(names) == 20
    assert all(counted[name] == 0 for name in names)
    counted |= {name: np.asarray(7 + order, np.int64) for order, name in enumerate(names)}
    given = {f"{prefix}{name}": value for name, value in counted.items()}
    imported = import_state_dict(given, "resnet18")
    assert jax.tree.structure(imported) == jax.tree.structure(variables)
    written = export_state_dict(imported, "resnet18", library, counters=given)
    alone = {name: counted[name] for name in names}
    assert export_state_dict(imported, "resnet18", library, counters=alone).keys() == counted.keys()
    assert written.keys() == counted.keys()
    for name, value in counted.items():
        assert written[name].dtype == value.dtype
        np.testing.assert_array_equal(written[name], value, name)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda d: d.pop("layer1.0.bn1.bias"), r"resnet18: layer1\.0\.bn1\.bias is missing$"),
        (lambda d: d.pop("fc.bias"), r"resnet18: fc\.bias is missing$"),
        (lambda d: d.update(extra=np.zeros(1)), r"resnet18: extra is not part of it$"),
        (
            lambda d: d.update({"conv1.weight": np.zeros((64, 3, 3, 3))}),
            r"conv1\.weight has shape \(64, 3, 3, 3\) instead of \(64, 3, 7, 7\)",
        ),
    ],
)
def test_a_wrong_entry_is_named(state_dict, change, line):
    damaged = dict(state_dict)
    change(damaged)
    with pytest.raises(WeightsError, match=line):
        import_state_dict(damaged, "resnet18")


def test_weights_of_another_architecture_are_refused(state_dict):
    with pytest.raises(WeightsError, match=r"resnet34: these are weights of resnet18"):
        import_state_dict(state_dict, "resnet34")
    with pytest.raises(WeightsError, match=r"weights of resnet34: .* is missing \(and"):
        export_state_dict(variables_of("resnet18"), "resnet34")
