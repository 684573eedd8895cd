"""The tables and the loader: layouts, and every tensor accounted for."""

import numpy as np
import pytest
from support.networks import adm, flat, inputs, random_params
from support.weights import GIVEN, GOLDEN, opened, read_golden

from ddpm_jax.convert import openai
from ddpm_jax.convert.families import DIFFUSERS, HO, OPENAI
from ddpm_jax.convert.loader import mismatches, parameters, state_dict
from ddpm_jax.convert.names import Tensor, nested, tensors
from ddpm_jax.errors import UserError
from ddpm_jax.models import Classifier, UNet

LABEL = np.array([0, 1])


def test_layouts_are_turned_and_turned_back():
    """HWIO to OIHW, IO to OI and to a 1x1 convolution; biases as they are."""
    rng = np.random.default_rng(0)
    kernel, dense, bias = rng.normal(size=(3, 3, 2, 5)), rng.normal(size=(2, 5)), rng.normal(size=5)
    for array, tensor, expected in [
        (kernel, Tensor("w", {"a.kernel": kernel.shape}, True, 0, 1), np.einsum("hwio->oihw", kernel)),
        (dense, Tensor("w", {"a.kernel": dense.shape}, True, 0, 1), dense.T),
        (dense, Tensor("w", {"a.kernel": dense.shape}, True, 2, 1), dense.T[:, :, None, None]),
        (bias, Tensor("b", {"a.bias": bias.shape}, False, 0, 1), bias),
    ]:
        np.testing.assert_array_equal(tensor.to_foreign([array]), expected)
        np.testing.assert_array_equal(tensor.to_ours(expected), [array])
        assert tensor.shape == expected.shape


@pytest.mark.parametrize("heads", [1, 2])
def test_fused_rows_run_over_head_then_which_of_three_then_channel(heads):
    leaves = {f"a.{name}.bias": (4,) for name in ("query", "key", "value")}
    tensor = Tensor("b", leaves, False, 0, heads)
    query, key, value = np.arange(4), 10 + np.arange(4), 20 + np.arange(4)
    expected = {
        1: [0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23],
        2: [0, 1, 10, 11, 20, 21, 2, 3, 12, 13, 22, 23],
    }[heads]
    np.testing.assert_array_equal(tensor.to_foreign([query, key, value]), expected)
    np.testing.assert_array_equal(tensor.to_ours(np.array(expected)), [query, key, value])


def test_the_new_attention_order_is_that_of_one_head(tmp_path):
    """guided diffusion's use_new_attention_order, which its 64x64 denoiser has: queries, then keys, then values."""
    _, weights, _ = read_golden("adm_cond")
    given = {**GIVEN["adm_cond"], "attention_order": "new"}
    params = flat(opened(GOLDEN / "adm_cond.safetensors", **given)[2])
    fused = weights["middle_block.1.qkv.bias"]
    split = [params[f"middle.block_0_attention.{name}.bias"] for name in ("query", "key", "value")]
    np.testing.assert_array_equal(np.concatenate(split), fused)


@pytest.mark.parametrize("family", [OPENAI, DIFFUSERS, HO], ids=["openai", "diffusers", "ho"])
def test_every_leaf_of_ours_is_in_one_tensor(family):
    options = {"resample_in_block": False} if family is HO else {}
    x, index = inputs()
    model = UNet(adm(channel_mult=(1, 2, 2), **options), num_classes=0 if family is HO else 3)
    params = random_params(model, x, index, LABEL)
    table = tensors(family, params, heads=model.arch.heads)
    paths = [path for tensor in table for path in tensor.leaves]
    assert sorted(paths) == sorted(flat(params))
    assert len({tensor.name for tensor in table}) == len(table)
    back = parameters(state_dict(params, table), table, source="it")
    for path, leaf in flat(params).items():
        np.testing.assert_array_equal(flat(back)[path], leaf, err_msg=path)


def test_modules_are_where_the_families_have_them():
    """Three levels of one block, attention at the second: resampling comes behind it; diffusers goes up from below."""
    x, index = inputs()
    arch = adm(channel_mult=(1, 2, 2))
    params = random_params(UNet(arch), x, index)
    ours = "decoder.level_2_up", "decoder.level_1_up", "decoder.level_0_block_1", "encoder.level_2_block_0"
    places = [
        (OPENAI, ("output_blocks.1.1", "output_blocks.3.2", "output_blocks.5.0", "input_blocks.5.0")),
        (
            DIFFUSERS,
            (
                "up_blocks.0.upsamplers.0",
                "up_blocks.1.upsamplers.0",
                "up_blocks.2.resnets.1",
                "down_blocks.2.resnets.0",
            ),
        ),
    ]
    for family, expected in places:
        layer = family.modules["encoder.block"][1]["conv_0"]
        names = {path: tensor.name for tensor in tensors(family, params, heads=arch.heads) for path in tensor.leaves}
        assert [names[f"{path}.conv_0.bias"] for path in ours] == [f"{place}.{layer}.bias" for place in expected]


def test_a_tree_is_flattened_and_back():
    leaves = {"a.b.c": 1, "a.b.d": 2, "e": 3}
    assert nested(leaves) == {"a": {"b": {"c": 1, "d": 2}}, "e": 3}
    assert flat(nested(leaves)) == leaves


def test_missing_left_over_and_misshaped_tensors_are_listed():
    model = Classifier(adm(), num_classes=5)
    params = random_params(model, *inputs())
    table = tensors(OPENAI, params, heads=model.arch.heads)
    weights = state_dict(params, table)
    assert mismatches(weights, table) == []
    del weights["out.0.weight"]
    weights["extra.weight"] = np.zeros(1)
    weights["time_embed.0.bias"] = np.zeros(7)
    with pytest.raises(UserError) as caught:
        parameters(weights, table, source="model.pt")
    assert str(caught.value) == (
        "model.pt does not fit the network: missing: out.0.weight; unexpected: extra.weight; "
        "of another shape: time_embed.0.bias is [7] instead of [128]"
    )
    with pytest.raises(UserError, match=r"missing: .* and \d+ more"):
        parameters({}, table, source="model.pt")


def test_tensors_that_are_not_finite_or_not_real_are_listed():
    model = Classifier(adm(), num_classes=5)
    params = random_params(model, *inputs())
    table = tensors(OPENAI, params, heads=model.arch.heads)
    weights = {name: array.copy() for name, array in state_dict(params, table).items()}
    for number, name in enumerate(("out.0.weight", "time_embed.0.bias")):
        weights[name].flat[-1] = (np.nan, -np.inf)[number]
    with pytest.raises(UserError) as caught:
        parameters(weights, table, source="model.pt")
    names = sorted(["out.0.weight", "time_embed.0.bias"], key=[tensor.name for tensor in table].index)
    assert str(caught.value) == (
        "model.pt has weights that are not finite (NaN, infinite, or too large for float32), in "
        f"{', '.join(names)}; use an earlier checkpoint"
    )
    assert mismatches({**weights, "out.0.weight": weights["out.0.weight"] * 1j}, table) == [
        "of complex numbers: out.0.weight"
    ]


def test_shapes_are_those_of_the_arrays():
    """Without making them, for what a file says of its sizes is not to be trusted."""
    x, index = inputs()
    for family, options in ((OPENAI, {}), (DIFFUSERS, {}), (HO, {"resample_in_block": False})):
        model = UNet(adm(channel_mult=(1, 2), **options))
        params = random_params(model, x, index)
        table = tensors(family, params, heads=model.arch.heads)
        made = state_dict(params, table)
        assert {tensor.name: tensor.shape for tensor in table} == {name: array.shape for name, array in made.items()}


def without(weights, *names):
    return {name: array for name, array in weights.items() if name not in names}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, "do not show the size of the images: give image_size=PIXELS"),
        ({"image_size": 8, "num_heads": 2, "head_channels": 8}, "exclude each other"),
        ({"image_size": 8, "num_heads": 5}, "cannot be divided evenly into attention heads"),
        ({"image_size": 7}, "cannot be halved"),
        ({"image_size": 8, "schedule": "linear", "num_timesteps": 10}, "does not define a valid noise schedule"),
        ({"image_size": 8, "time_scale": 0.0}, "model.time_scale=0.0 must be greater than 0"),
    ],
)
def test_wrong_flags_are_one_line(given, reason):
    with pytest.raises(UserError) as caught:
        opened(GOLDEN / "improved_uncond.safetensors", **given)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_classifier_tells_the_size_of_its_images():
    with pytest.raises(UserError, match=r"^image_size=16 does not fit the classifier's tensors, which are for 8"):
        opened(GOLDEN / "classifier.safetensors", image_size=16)


def test_networks_that_ours_is_not_are_refused_with_the_reason():
    _, weights, _ = read_golden("improved_uncond")
    given = {"image_size": 8}
    narrow = {**weights, "input_blocks.0.0.weight": np.zeros((16, 3, 3, 3), np.float32)}
    with pytest.raises(UserError, match="the first level has 16 channels, but the time embedding 32"):
        openai.understood(narrow, given)
    upsampler = {**weights, "input_blocks.0.0.weight": np.zeros((32, 6, 3, 3), np.float32)}
    with pytest.raises(UserError, match="maps 6 channels to 6"):
        openai.understood(upsampler, given)
    nothing = {"input_blocks.0.0.weight": np.zeros((0, 3, 3, 3)), "time_embed.0.weight": np.zeros((0, 0))}
    with pytest.raises(UserError, match="a base width of 0 does not fit"):
        openai.understood({**weights, **nothing}, given)
    with pytest.raises(UserError, match=r"not those of an improved .* 'time_embed.0.weight' does not fit"):
        openai.understood(without(weights, "time_embed.0.weight"), given)
