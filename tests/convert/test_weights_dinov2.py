"""Files of DINOv2's weights: which network they describe, and that every tensor is accounted for."""

import hashlib

import jax
import numpy as np
import pytest
from support import dinov2
from support.networks import flat
from support.weights import GOLDEN

from ddpm_jax.convert.dinov2 import PUBLISHED, read_dinov2
from ddpm_jax.errors import UserError
from ddpm_jax.models.dinov2 import DINOv2


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The small network."""
    return dinov2.write(tmp_path_factory.mktemp("weights") / "drawn.safetensors")


def test_shapes_determine_the_network_and_the_digest_names_it(file, monkeypatch):
    weights, digest = read_dinov2(file), hashlib.sha256(file.read_bytes()).hexdigest()
    assert weights.network == DINOv2(width=128, depth=2, heads=2, grid=7)
    assert (weights.sha256, weights.name) == (digest, None)
    monkeypatch.setitem(PUBLISHED, digest, "dinov2_vits14")
    assert read_dinov2(str(file)).name == "dinov2_vits14"


def test_the_parameters_are_those_that_the_network_expects(file):
    network, params, *_ = read_dinov2(file)
    expected = jax.eval_shape(network.init, jax.random.key(0), dinov2.images(56, 56))["params"]
    assert {path: leaf.shape for path, leaf in flat(params).items()} == {
        path: leaf.shape for path, leaf in flat(expected).items()
    }
    np.testing.assert_array_equal(
        flat(params)["block_1.dense_0.kernel"].T, dinov2.state_dict()["blocks.1.mlp.fc1.weight"]
    )
    np.testing.assert_array_equal(params["positions"], dinov2.state_dict()["pos_embed"])


def test_pytorchs_file_has_the_same_weights(file, tmp_path):
    torch = pytest.importorskip("torch", reason="pip install -r requirements/diffusers.txt")
    module, state = torch.nn.Linear(1, 1), dinov2.state_dict()
    content = module.state_dict()  # an OrderedDict with the versions of its modules
    content.clear()
    content.update({name: torch.from_numpy(array) for name, array in state.items()})
    torch.save(content, tmp_path / "drawn.pth")
    ours, theirs = (flat(read_dinov2(path).params) for path in (file, tmp_path / "drawn.pth"))
    for path, leaf in ours.items():
        np.testing.assert_array_equal(theirs[path], leaf, err_msg=path)


def test_every_tensor_but_the_mask_token_is_needed(tmp_path):
    full = flat(read_dinov2(dinov2.write(tmp_path / "it.safetensors", mask_token=None)).params)
    assert len(full) == len(dinov2.shapes()) - 1
    for name in ("cls_token", "norm.bias", "patch_embed.proj.bias", "blocks.1.ls2.gamma", "blocks.0.attn.qkv.weight"):
        with pytest.raises(UserError, match=f"depth 2, does not fit the network: missing: {name}$"):
            read_dinov2(dinov2.write(tmp_path / "it.safetensors", **{name: None}))


BAD = {
    "registers": ({"register_tokens": np.zeros((1, 4, 128), np.float32)}, "unexpected: register_tokens"),
    "a gap in the blocks": (
        {"blocks.3.norm1.bias": np.zeros(128, np.float32)},
        "depth 3, does not fit the network: missing: blocks.2.*; unexpected: blocks.3.norm1.bias",
    ),
    "another size of patches": (
        {"patch_embed.proj.weight": np.zeros((128, 3, 16, 16), np.float32)},
        r"of another shape: patch_embed.proj.weight is .* instead of \[128, 3, 14, 14\]",
    ),
    "not finite": ({"norm.weight": np.full(128, np.nan, np.float32)}, "not finite .* in norm.weight"),
    "no positions": ({"pos_embed": None}, "has no weights of DINOv2"),
    "positions without a batch": ({"pos_embed": np.zeros((50, 128), np.float32)}, "has no weights of DINOv2"),
    "positions of no square": ({"pos_embed": np.zeros((1, 51, 128), np.float32)}, "has no weights of DINOv2"),
    "positions of nothing": ({"pos_embed": np.zeros((1, 1, 128), np.float32)}, "has no weights of DINOv2"),
    "no blocks": (
        {name: None for name in dinov2.shapes() if name.startswith("blocks.")},
        "has no weights of DINOv2",
    ),
    "half a head": ({"pos_embed": np.zeros((1, 50, 96), np.float32)}, "has no weights of DINOv2"),
    "no width": ({"pos_embed": np.zeros((1, 50, 0), np.float32)}, "has no weights of DINOv2"),
}


@pytest.mark.parametrize(("tensors", "message"), BAD.values(), ids=BAD.keys())
def test_other_weights_are_refused_in_one_line(tensors, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        read_dinov2(dinov2.write(tmp_path / "it.safetensors", **tensors))
    assert str(tmp_path / "it.safetensors") in str(caught.value)


def test_files_of_other_networks_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"no weights of DINOv2 \(its first tensors are .*\); give dinov2_vitb14"):
        read_dinov2(GOLDEN / "classifier.safetensors")
    with pytest.raises(UserError, match="there is no file"):
        read_dinov2(tmp_path / "missing.pth")


@pytest.mark.parametrize("content", [[], {"pos_embed": 1.0}, {"model": {}}], ids=["list", "numbers", "nested"])
def test_a_file_without_a_state_dict_is_refused(content, tmp_path):
    torch = pytest.importorskip("torch", reason="pip install -r requirements/diffusers.txt")
    torch.save(content, tmp_path / "it.pth")
    with pytest.raises(UserError, match=r"no weights of DINOv2 \(it does not contain a state dict\)"):
        read_dinov2(tmp_path / "it.pth")
