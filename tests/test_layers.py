"""The U-Net's parts against NumPy in float64, and the initialisation against its formula."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.networks import equations, flat, ho, inputs, random_params

from ddpm_jax.models import Architecture, UNet
from ddpm_jax.models.layers import (
    Attention,
    Downsample,
    Embedding,
    ResBlock,
    Upsample,
    downsample_mean,
    group_norm,
    timestep_embedding,
    upsample_nearest,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

RNG = np.random.default_rng(0)
CLOSE = {"rtol": 2e-5, "atol": 2e-5}


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def silu(x):
    return x / (1 + np.exp(-x))


def linear(params, x):
    return x @ np.float64(params["kernel"]) + params["bias"]


def conv(params, x, *, stride=1, padding=(1, 1)):
    """A 3x3 cross-correlation, tap by tap."""
    x = np.pad(np.float64(x), ((0, 0), padding, padding, (0, 0)))
    height, width = ((size - 3) // stride + 1 for size in x.shape[1:3])
    taps = [
        x[:, i : i + stride * height : stride, j : j + stride * width : stride] @ np.float64(params["kernel"][i, j])
        for i in range(3)
        for j in range(3)
    ]
    return sum(taps) + params["bias"]


def exact_group_norm(params, x, *, groups=8, epsilon=1e-6):
    shape, scale, bias = x.shape, params["scale"], params["bias"]
    x = np.float64(x).reshape(shape[0], -1, groups, shape[-1] // groups)
    x = (x - x.mean((1, 3), keepdims=True)) / np.sqrt(x.var((1, 3), keepdims=True) + epsilon)
    return x.reshape(shape) * scale + bias


def run(module, *args):
    """A module's output under random parameters, and the parameters."""
    params = random_params(module, *args)
    return module.apply({"params": params}, *args), params


INDEX = np.array([0, 1, 17.5, 500, 999])


def test_ho_embeds_time_as_sines_then_cosines():
    frequencies = 10000.0 ** (-np.arange(64) / 63)
    angles = INDEX[:, None] * frequencies
    expected = np.concatenate([np.sin(angles), np.cos(angles)], 1)
    np.testing.assert_allclose(timestep_embedding(INDEX, 128), expected, atol=2e-4)


def test_adm_embeds_time_as_cosines_then_sines_of_other_frequencies():
    frequencies = 10000.0 ** (-np.arange(64) / 64)
    angles = INDEX[:, None] * frequencies
    expected = np.concatenate([np.cos(angles), np.sin(angles)], 1)
    np.testing.assert_allclose(timestep_embedding(INDEX, 128, "cos_sin"), expected, atol=2e-4)


def test_integer_times_embed_like_floats():
    whole = np.array([0, 3, 999])
    np.testing.assert_array_equal(timestep_embedding(whole, 32), timestep_embedding(whole.astype(np.float32), 32))


def test_upsampling_repeats_every_pixel_in_a_square():
    x = normal(2, 3, 2, 4)
    np.testing.assert_array_equal(upsample_nearest(x), x.repeat(2, 1).repeat(2, 2))


def test_downsampling_takes_the_mean_of_every_square():
    x = normal(2, 4, 6, 3)
    expected = (x[:, ::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, ::2] + x[:, 1::2, 1::2]) / 4
    np.testing.assert_allclose(downsample_mean(x), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("padding", "explicit"), [("same", (0, 1)), ("symmetric", (1, 1))])
def test_the_stride_two_convolution_pads_as_its_family(padding, explicit):
    x = normal(2, 6, 4, 32)
    out, params = run(Downsample(ho(padding=padding)), x)
    np.testing.assert_allclose(out, conv(params["conv"], x, stride=2, padding=explicit), **CLOSE)


def test_upsample_convolves_the_doubled_image():
    x = normal(2, 3, 2, 32)
    out, params = run(Upsample(ho()), x)
    np.testing.assert_allclose(out, conv(params["conv"], x.repeat(2, 1).repeat(2, 2)), **CLOSE)


class Norm(nn.Module):
    """The norm alone."""

    arch: Architecture

    @nn.compact
    def __call__(self, x):
        return group_norm(self.arch, "norm")(x)


@pytest.mark.parametrize("options", [{}, {"norm_groups": 32}, {"norm_epsilon": 0.5}])
def test_the_norm_is_group_norm(options):
    x = 0.1 * normal(2, 3, 4, 64)
    out, params = run(Norm(ho(**options)), x)
    groups, epsilon = options.get("norm_groups", 8), options.get("norm_epsilon", 1e-6)
    np.testing.assert_allclose(out, exact_group_norm(params["norm"], x, groups=groups, epsilon=epsilon), **CLOSE)


def test_the_norm_survives_a_large_mean():
    x = 3000 + normal(2, 4, 4, 64)
    out, params = run(Norm(ho()), x)
    np.testing.assert_allclose(out, exact_group_norm(params["norm"], x), atol=3e-3)


def test_in_bfloat16_only_the_result_of_the_norm_is_rounded():
    x = (64 + 4 * normal(2, 4, 4, 64)).astype(jnp.bfloat16)
    out, params = run(Norm(ho(dtype="bfloat16")), x)
    assert out.dtype == jnp.bfloat16
    exact = exact_group_norm(params["norm"], x.astype(np.float32))
    np.testing.assert_allclose(out.astype(np.float32), exact, rtol=2**-8, atol=1e-4)


@pytest.mark.parametrize("options", [{"num_heads": 1}, {"num_heads": 4}, {"head_channels": 32}])
def test_attention_is_softmax_attention_over_all_pixels_and_a_shortcut(options):
    x = normal(2, 3, 4, 64)
    out, params = run(Attention(ho(**options)), x)
    heads = options.get("num_heads", 2)
    h = exact_group_norm(params["norm"], x).reshape(2, 12, 64)
    query, key, value = (linear(params[name], h).reshape(2, 12, heads, -1) for name in ("query", "key", "value"))
    logits = np.einsum("bqhc,bkhc->bhqk", query, key) / np.sqrt(64 / heads)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    mixed = np.einsum("bhqk,bkhc->bqhc", weights, value).reshape(x.shape)
    np.testing.assert_allclose(out, x + linear(params["out"], mixed), **CLOSE)


def test_the_softmax_of_bfloat16_attention_is_float32():
    module = Attention(ho(dtype="bfloat16"))
    x = normal(2, 4, 4, 64).astype(jnp.bfloat16)
    params = random_params(module, x)
    ops = equations(module.apply, {"params": params}, x)
    exponentials = [op for op in ops if op.primitive.name == "exp"]
    assert exponentials
    assert all(op.invars[0].aval.dtype == jnp.float32 for op in exponentials)
    products = [op for op in ops if op.primitive.name == "dot_general"]
    assert all(v.aval.dtype == jnp.bfloat16 for op in products for v in op.invars)


RESAMPLINGS = {
    "none": (None, lambda x: x),
    "up": (upsample_nearest, lambda x: x.repeat(2, 1).repeat(2, 2)),
    "down": (downsample_mean, lambda x: x.reshape(2, 2, 2, 3, 2, 32).mean((2, 4))),
}


@pytest.mark.parametrize("name", RESAMPLINGS)
@pytest.mark.parametrize("width", [32, 64])
@pytest.mark.parametrize("scale_shift_norm", [False, True])
def test_a_residual_block_is_its_formula(scale_shift_norm, width, name):
    resample, expected_resample = RESAMPLINGS[name]
    x, emb = normal(2, 4, 6, 32), normal(2, 128)
    out, p = run(ResBlock(ho(scale_shift_norm=scale_shift_norm), width, resample), x, emb, False)
    h = conv(p["conv_0"], expected_resample(silu(exact_group_norm(p["norm_0"], x))))
    shift = linear(p["emb"], silu(np.float64(emb)))[:, None, None]
    if scale_shift_norm:
        h = exact_group_norm(p["norm_1"], h) * (1 + shift[..., :width]) + shift[..., width:]
    else:
        h = exact_group_norm(p["norm_1"], h + shift)
    shortcut = expected_resample(x)
    if width != 32:
        shortcut = linear(p["shortcut"], shortcut)
    assert ("shortcut" in p) == (width != 32)
    np.testing.assert_allclose(out, shortcut + conv(p["conv_1"], silu(h)), **CLOSE)


def test_dropout_thins_the_branch_and_keeps_its_mean():
    """Behind the second norm: with the last convolution the identity, half of the branch is zero and half doubled."""
    x, emb = normal(1, 16, 16, 32), normal(1, 128)
    params = random_params(ResBlock(ho(), 32), x, emb, False)
    params["conv_1"]["kernel"] = np.zeros((3, 3, 32, 32), np.float32)
    params["conv_1"]["kernel"][1, 1] = np.eye(32)
    params["conv_1"]["bias"] = np.zeros(32, np.float32)
    h = ResBlock(ho(), 32).apply({"params": params}, x, emb, False) - x
    rngs = {"dropout": jax.random.key(0)}
    thinned = ResBlock(ho(dropout=0.5), 32).apply({"params": params}, x, emb, True, rngs=rngs) - x
    kept = np.abs(thinned - 2 * h) < 1e-4
    assert np.all(kept | (np.abs(thinned) < 1e-4))
    np.testing.assert_allclose(kept.mean(), 0.5, atol=0.03)


@pytest.mark.parametrize("order", ["sin_cos", "cos_sin"])
def test_the_embedding_is_two_dense_layers_and_a_row_of_the_class_table(order):
    index, label = np.array([3.0, 700.0]), np.array([4, 1])
    out, p = run(Embedding(ho(time_embedding=order), num_classes=5), index, label)
    features = np.float64(timestep_embedding(index, 32, order))
    expected = linear(p["dense_1"], silu(linear(p["dense_0"], features))) + p["label"]["embedding"][label]
    assert out.shape == (2, 128)
    np.testing.assert_allclose(out, expected, **CLOSE)


def initialise(module, *args_and_key):
    """The output and the parameters of a module as initialised."""
    *args, key = args_and_key
    return module.init_with_output(key, *args)


@pytest.fixture(scope="module")
def network():
    """Output and parameters of a network of one level as initialised."""
    model = UNet(ho(channels=64, channel_mult=(1,), attention_resolutions=(8,)), num_classes=50)
    args = (*inputs(), np.array([0, 1]))
    return jax.jit(partial(initialise, model, *args))(jax.random.key(0, impl="rbg"))


@pytest.fixture(scope="module")
def initial(network):
    """Every kind of layer as initialised, by path: that network, and what resamples."""
    arch, key, wide = ho(channels=64), jax.random.key(0, impl="rbg"), jnp.zeros((1, 8, 8, 128))
    modules = {
        Downsample(arch, name="down"): (wide,),
        Upsample(arch, name="up"): (wide,),
        ResBlock(arch, 64, downsample_mean, name="block"): (wide, jnp.zeros((1, 256)), False),
    }
    params = {m.name: jax.jit(partial(initialise, m, *args))(key)[1]["params"] for m, args in modules.items()}
    params["unet"] = network[1]["params"]
    return {path: np.asarray(leaf) for path, leaf in flat(params).items()}


def starts_at_zero(path):
    """The last layer of every branch: second convolutions, attention outputs, the network's output."""
    return path.endswith(("conv_1.kernel", "attention.out.kernel", "conv_out.kernel"))


def test_kernels_start_uniform_with_variance_one_over_the_mean_fan(initial):
    kernels = {path: leaf for path, leaf in initial.items() if path.endswith("kernel") and not starts_at_zero(path)}
    # Time 2, first 1, six blocks of 2 and three shortcuts, four attentions of 3, convolutions that resample 2.
    assert len(kernels) == 32
    for path, kernel in kernels.items():
        receptive = np.prod(kernel.shape[:-2])
        bound = np.sqrt(6 / (receptive * (kernel.shape[-2] + kernel.shape[-1])))
        assert 0.99 * bound < np.abs(kernel).max() <= bound, path
        np.testing.assert_allclose(kernel.std(), bound / np.sqrt(3), rtol=0.05, err_msg=path)
        assert np.abs(kernel.mean()) < 5 * bound / np.sqrt(3 * kernel.size), path


def test_every_branch_starts_at_zero(initial):
    zeros = [path for path in initial if starts_at_zero(path)]
    # One block down, two across, two up, one alone; attention down, across and twice up; the output.
    assert len(zeros) == 6 + 4 + 1
    assert all(np.all(initial[path] == 0) for path in zeros)


def test_the_network_says_zero_before_training(network):
    np.testing.assert_array_equal(network[0], np.zeros((2, 8, 8, 3)))


def test_biases_start_at_zero_and_scales_at_one(initial):
    for path, leaf in initial.items():
        if path.endswith(("bias", "scale")):
            assert np.all(leaf == path.endswith("scale")), path


def test_the_class_table_starts_standard_normal(initial):
    table = initial["unet.embedding.label.embedding"]
    assert table.shape == (50, 256)
    np.testing.assert_allclose([table.mean(), table.std()], [0, 1], atol=0.05)


@pytest.mark.parametrize(("key", "value"), [("padding", "valid"), ("time_embedding", "cosine")])
def test_an_unknown_detail_is_refused_by_name(key, value):
    with pytest.raises(ValueError, match=f"{key} must be '.*got '{value}'"):
        ho(**{key: value})
