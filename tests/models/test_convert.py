"""A network is read exactly, wherever in a file it is, and a damaged entry is named."""

import json
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from jaxch5.errors import WeightsError
from jaxch5.models.convert import find_network, rename
from jaxch5.models.pretrained import from_file
from jaxch5.models.registry import create_model, spec_of
from jaxch5.models.weights import export_state_dict, import_network, import_state_dict

ARCH = "resnet18"
PREFIXES = ["", "module.", "model.", "_orig_mod.", "backbone.", "encoder.", "net.", "a.b."]
WRAPPERS = ["state_dict", "model", "student", "weights"]
NAMES = json.loads((Path(__file__).parent / "names.json").read_text())
few = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def state_dicts(random_variables):
    """Provides for each head a state dict and the variables from which it was made."""
    made = {head: random_variables(ARCH, head=head) for head in ("linear", "concat_pool")}
    return {head: (export_state_dict(made[head], ARCH), made[head]) for head in made}


def fastai_state_dict(state_dict):
    """Returns a state dict with the names that fastai's `vision_learner` uses."""
    names = spec_of(ARCH).names.others["fastai"]
    return {rename(name, names): value for name, value in state_dict.items()}


def children(state_dict):
    """Returns the body's entries as `Sequential(*list(resnet.children())[:-2])` numbers them."""
    fastai = fastai_state_dict(state_dict)
    return {name[2:]: value for name, value in fastai.items() if name.startswith("0.")}


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def without_head(variables):
    return {
        kind: {name: part for name, part in parts.items() if name != "head"}
        for kind, parts in variables.items()
    }


@given(
    head=st.sampled_from(["linear", "concat_pool"]),
    names=st.sampled_from(["torchvision", "fastai", "children"]),
    keep_head=st.booleans(),
    prefixes=st.lists(st.sampled_from(PREFIXES), max_size=3),
    wrappers=st.lists(st.sampled_from(WRAPPERS), max_size=2, unique=True),
    dtype=st.sampled_from([np.float32, np.float16, np.float64, ml_dtypes.bfloat16]),
    extras=st.sets(st.sampled_from(["fc_norm.weight", "projector.0.bias", "decoder.9.weight"])),
    counters=st.booleans(),
    shuffled=st.randoms(),
)
@few
def test_whatever_is_around_a_network_it_is_read_to_the_bit(
    state_dicts, head, names, keep_head, prefixes, wrappers, dtype, extras, counters, shuffled
):
    state_dict, variables = state_dicts[head]
    entries = {
        name: np.asarray(value, dtype)
        for name, value in state_dict.items()
        if counters or not name.endswith("tracked")
    }
    if names == "children" or not keep_head:
        entries = {k: v for k, v in entries.items() if not k.startswith(("fc.", "head."))}
        variables = without_head(variables)
    rename = {"torchvision": dict, "fastai": fastai_state_dict, "children": children}[names]
    entries = rename(entries) | {extra: np.zeros(3, dtype) for extra in extras}
    order = list(entries)
    shuffled.shuffle(order)
    tree = {"".join(prefixes) + name: entries[name] for name in order}
    for wrapper in wrappers:
        tree = {"epoch": 3, wrapper: tree, "optimizer": {"lr": 0.1, "state": {0: {"step": 1}}}}
    read, left_out = import_network(find_network(tree, ARCH), ARCH)
    expected = jax.tree.map(lambda leaf: leaf.astype(dtype).astype(np.float32), variables)
    assert_same(read, expected)
    for extra in extras:
        assert any(name.endswith(extra) for name in left_out)


@given(
    data=st.data(),
    head=st.sampled_from(["linear", "concat_pool"]),
    fastai=st.booleans(),
    prefix=st.sampled_from(PREFIXES),
    damage=st.sampled_from(["removed", "NaN", "infinite", "shape", "integers", "scalar"]),
)
@few
def test_any_damaged_entry_is_refused_by_the_name_that_the_file_gives_it(
    state_dicts, data, head, fastai, prefix, damage
):
    state_dict, _ = state_dicts[head]
    renamed = fastai_state_dict(state_dict) if fastai and head == "concat_pool" else state_dict
    entries = {prefix + name: value for name, value in renamed.items()}
    weights = [name for name in entries if not name.endswith("tracked")]
    name = data.draw(st.sampled_from(weights))
    value = entries[name]
    if damage == "removed":
        del entries[name]
    elif damage in ("NaN", "infinite"):
        entries[name] = value.copy()
        entries[name].flat[data.draw(st.integers(0, value.size - 1))] = (
            np.nan if damage == "NaN" else -np.inf
        )
    else:
        made = {
            "shape": np.zeros((*value.shape[:-1], value.shape[-1] + 1), np.float32),
            "integers": np.zeros(value.shape, np.int8),
            "scalar": np.float32(1),
        }
        entries[name] = made[damage]
    with pytest.raises(WeightsError) as raised:
        import_state_dict(entries, ARCH)
    assert name in str(raised.value)
    assert "\n" not in str(raised.value)


def test_of_several_networks_the_one_that_is_named_is_taken(state_dicts, tmp_path):
    """The part after `#` in a path selects one of several networks in a file.

    Without this part, the weights themselves are read, not their average. `origin` tells which
    network was read.
    """
    state_dict, _ = state_dicts["linear"]
    file = tmp_path / "both.safetensors"
    average = {
        f"state_dict_ema.{name}": np.asarray(value + 1) for name, value in state_dict.items()
    }
    save_file(average | {f"state_dict.{name}": v for name, v in state_dict.items()}, file)
    bias = {}
    for part in ("", "#state_dict", "#state_dict_ema"):
        read = from_file(Path(f"{file}{part}"), ARCH)
        bias[part] = np.asarray(read.variables["params"]["head"]["bias"])
        assert read.origin == f"{file}{part or '#state_dict'}"
        assert len(read.others) == 1
    np.testing.assert_array_equal(bias[""], state_dict["fc.bias"])
    np.testing.assert_array_equal(bias["#state_dict"], bias[""])
    np.testing.assert_array_equal(bias["#state_dict_ema"], state_dict["fc.bias"] + 1)
    with pytest.raises(WeightsError, match=r"no part #teacher .* #state_dict and #state_dict_ema"):
        from_file(Path(f"{file}#teacher"), ARCH)


def test_of_two_architectures_the_one_that_is_asked_for_is_taken(random_variables):
    parts = {"student": "resnet18", "teacher": "resnet34"}
    variables = {part: random_variables(arch) for part, arch in parts.items()}
    both = {part: export_state_dict(variables[part], arch) for part, arch in parts.items()}
    for part, arch in parts.items():
        found = find_network(both, arch)
        assert (found.part, len(found.others)) == (part, 1)
        assert_same(import_network(found, arch)[0], variables[part])


@pytest.mark.parametrize(
    ("names", "cause"),
    [
        (["vit.blocks.0.attn.qkv.weight"], "a transformer"),
        (["features.denseblock1.denselayer1.conv1.weight"], "a DenseNet"),
        (["resnet.embedder.embedder.convolution.weight"], "names of the library transformers"),
        (["features.0.weight", "features.3.weight"], "VGG"),
        (["stages.0.0.conv_dw.weight"], "ConvNeXt"),
        (["what.ever", "else"], "it has what.ever, and 1 other; it is incomplete"),
    ],
)
def test_what_is_no_resnet_is_said_to_be_none(names, cause):
    with pytest.raises(WeightsError, match="holds no ResNet") as raised:
        find_network({name: np.zeros(1) for name in names}, ARCH)
    assert cause in str(raised.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: {k: np.zeros((*v.shape[:-1], 2 * v.shape[-1])) for k, v in d.items() if v.ndim},
        lambda d: {k: v for k, v in d.items() if not k.startswith("layer4")},
        lambda d: d | {f"layer1.{n}.se.fc1.weight": np.zeros((4, 64, 1, 1)) for n in (0, 1)},
    ],
    ids=["wide", "cut", "squeeze and excitation"],
)
def test_many_that_do_not_fit_are_another_kind_of_network(change, state_dicts):
    """If many entries do not fit, the cause is named, and not only the first missing entry."""
    with pytest.raises(WeightsError, match="incomplete, or holds another kind of ResNet"):
        import_state_dict(change(state_dicts["linear"][0]), ARCH)


def test_dictionaries_within_themselves_end(state_dicts):
    tree = {"state_dict": state_dicts["linear"][0]}
    tree["more"] = tree
    deep = tree
    for _ in range(100_000):
        deep = {"in": deep}
    assert find_network(tree, ARCH).part == "state_dict"
    with pytest.raises(WeightsError, match="holds no state dict"):
        find_network(deep, ARCH)


def test_names_and_shapes_are_those_that_the_others_have(state_dicts):
    """Names and shapes equal those in `names.json`, from torchvision 0.28 and fastai 2.8."""

    def shapes(state_dict):
        return {name: list(value.shape) for name, value in state_dict.items()}

    assert shapes(state_dicts["linear"][0]) == NAMES["torchvision"]
    assert shapes(fastai_state_dict(state_dicts["concat_pool"][0])) == NAMES["fastai"]


def test_a_head_of_fastai_with_another_width_is_left_and_its_body_taken(state_dicts):
    """Only the body is read if the head is from `vision_learner(..., lin_ftrs=[256])`."""
    entries = dict(state_dicts["concat_pool"][0])
    entries["head.4.weight"] = np.zeros((256, 1024), np.float32)
    for leaf in ("weight", "bias", "running_mean", "running_var"):
        entries[f"head.6.{leaf}"] = np.zeros(256, np.float32)
    entries["head.8.weight"] = np.zeros((3, 256), np.float32)
    variables, left_out = import_network(find_network(entries, ARCH), ARCH)
    assert_same(variables, without_head(state_dicts["concat_pool"][1]))
    assert "head.4.weight" in left_out


def test_a_body_alone_is_computed_with(state_dicts):
    """The features that a body computes are those of the network that it was cut from."""
    state_dict, whole = state_dicts["linear"]
    body = import_state_dict(children(state_dict), ARCH)
    assert_same(body, without_head(whole))
    model = create_model(ARCH, 3)
    x = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    under_a_head = {**body, "params": {**body["params"], "head": whole["params"]["head"]}}
    logits = (model.apply(variables, x, train=False) for variables in (under_a_head, whole))
    np.testing.assert_array_equal(*logits)
