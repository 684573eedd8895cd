"""The U-Net as a whole: published sizes, its structure, and what bfloat16, remat and dropout do."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.analytic import each
from support.networks import FAMILIES, LABEL, equations, flat, ho, inputs, random_params, shapes, small_unet

from ddpm_jax import factory
from ddpm_jax.config import experiment
from ddpm_jax.models import UNet
from ddpm_jax.models.unet import Encoder, Middle

pytestmark = pytest.mark.usefixtures("quick_compilation")


def param_shapes(config, **changes):
    """The parameters of a configuration's network, as shapes by path."""
    model = factory.network(config).clone(**changes)
    return flat(jax.eval_shape(factory.initial_params(config, model), jax.random.key(0)))


def num_params(shapes):
    return sum(int(np.prod(leaf.shape)) for leaf in shapes.values())


def relative_error(out, expected):
    out, expected = np.asarray(out, np.float64), np.asarray(expected, np.float64)
    return np.linalg.norm(out - expected) / np.linalg.norm(expected)


SIZES = {
    "cifar10": 35_746_307,
    "celeba": 78_700_803,
    "celebahq256": 113_673_219,
    "lsun_church": 113_673_219,
    "lsun_bedroom": 113_673_219,
}


@pytest.mark.parametrize("name", SIZES)
def test_configurations_have_the_published_number_of_parameters(name):
    assert num_params(param_shapes(experiment(name))) == SIZES[name]


def test_a_learned_variance_doubles_the_output_channels_only():
    assert num_params(param_shapes(experiment("cifar10"), out_channels=6)) == 35_749_766


def test_skips_are_the_first_convolution_then_every_block_and_resampling():
    arch = ho(channel_mult=(1, 2, 3), num_res_blocks=2)
    x, emb = inputs()[0], np.zeros((2, 128), np.float32)
    model = Encoder(arch)
    run = lambda key: model.init_with_output(key, x, emb, False)[0]
    skips = jax.eval_shape(run, jax.random.key(0))
    assert [skip.shape[1:] for skip in skips] == [
        (8, 8, 32),
        (8, 8, 32),
        (8, 8, 32),
        (4, 4, 32),
        (4, 4, 64),
        (4, 4, 64),
        (2, 2, 64),
        (2, 2, 96),
        (2, 2, 96),
    ]


def test_the_decoder_takes_the_skips_in_reverse():
    """Widths of what each block's first norm sees: what comes from below plus the skip taken."""
    tree = flat(shapes(UNet(ho(channel_mult=(1, 2, 3), num_res_blocks=2)), *inputs()))
    widths = lambda level: [tree[f"decoder.level_{level}_block_{i}.norm_0.scale"].shape[0] for i in range(3)]
    assert widths(2) == [96 + 96, 96 + 96, 96 + 64]
    assert widths(1) == [96 + 64, 64 + 64, 64 + 32]
    assert widths(0) == [64 + 32, 32 + 32, 32 + 32]


def test_attention_follows_every_block_at_its_resolution_and_the_middle_one():
    """CIFAR-10: 16x16 is the second level; two blocks down, three up."""
    paths = param_shapes(experiment("cifar10"))
    assert {path.split("_attention")[0] for path in paths if "_attention" in path} == {
        "encoder.level_1_block_0",
        "encoder.level_1_block_1",
        "middle.block_0",
        "decoder.level_1_block_0",
        "decoder.level_1_block_1",
        "decoder.level_1_block_2",
    }


def test_attention_may_be_at_several_resolutions():
    tree = flat(shapes(UNet(ho(attention_resolutions=(8, 4))), *inputs()))
    found = {path.split("_attention")[0] for path in tree if "_attention" in path}
    blocks = {path.split(".conv_1")[0] for path in tree if ".conv_1." in path}
    assert found == blocks - {"middle.block_1"}


@each("family", FAMILIES)
def test_class_and_time_change_the_output_of_their_own_image_only(family):
    apply, _ = small_unet(family())
    x, _ = inputs()
    out = np.asarray(apply(x, np.array([10.0, 20.0]), LABEL))
    for index, label in [([10, 21], LABEL), ([10, 20], [0, 2])]:
        other = np.asarray(apply(x, np.array(index, float), np.array(label)))
        np.testing.assert_array_equal(out[0], other[0])
        assert relative_error(other[1], out[1]) > 1e-3


def test_a_scaled_time_is_told_scaled():
    """Improved diffusion with T = 4000 tells its networks a quarter of the index."""
    x, index = inputs()
    scaled, _ = small_unet(ho(time_scale=0.25))
    np.testing.assert_array_equal(scaled(x, 4 * index, LABEL), small_unet(ho())[0](x, index, LABEL))
    assert relative_error(scaled(x, index, LABEL), scaled(x, 4 * index, LABEL)) > 1e-3


def test_height_and_width_are_treated_alike():
    """Turning the image and every kernel over the diagonal turns the output; attention is counted by height."""
    x, index = inputs(height=8, width=16)
    wide, high = UNet(ho(attention_resolutions=(4,))), UNet(ho(attention_resolutions=(8,)))
    params = random_params(wide, x, index)
    turned = jax.tree.map(lambda leaf: leaf.swapaxes(0, 1) if leaf.ndim == 4 else leaf, params)
    out = jax.jit(wide.apply)({"params": params}, x, index)
    flipped = jax.jit(high.apply)({"params": turned}, x.swapaxes(1, 2), index)
    assert out.shape == (2, 8, 16, 3)
    np.testing.assert_allclose(out, flipped.swapaxes(1, 2), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(6, 8), (8, 10)])
def test_sides_that_cannot_be_halved_are_refused(height, width):
    model = UNet(ho(channel_mult=(1, 2, 2)))
    with pytest.raises(ValueError, match=rf"3 levels need sides divisible by 4, got \({height}, {width}\)"):
        shapes(model, *inputs(height=height, width=width))


@each("family", FAMILIES)
def test_bfloat16_computes_the_body_and_float32_the_rest(family):
    model = UNet(family(dtype="bfloat16"), num_classes=3)
    args = (*inputs(), LABEL)
    params = shapes(model, *args)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    ops = equations(model.apply, {"params": params}, *args)
    types = {name: [_types(op) for op in ops if op.primitive.name == name] for name in _CHECKED}
    # The last convolution alone is float32, and its input with it.
    assert Counter(types["convolution"]).most_common()[1] == (("float32", "float32"), 1)
    assert types["convolution"][-1] == ("float32", "float32")
    assert set(types["convolution"][:-1]) == {("bfloat16", "bfloat16")}
    assert set(types["dot_general"]) == {("bfloat16", "bfloat16")}
    assert set(types["logistic"]) == {("bfloat16",)}
    # Norms, softmax and the frequencies.
    for name in ("rsqrt", "exp", "reduce_sum", "reduce_max", "sin", "cos"):
        assert set(types[name]) == {("float32",)}, name


_CHECKED = ("convolution", "dot_general", "logistic", "rsqrt", "exp", "reduce_sum", "reduce_max", "sin", "cos")


def _types(op):
    return tuple(str(v.aval.dtype) for v in op.invars)


@each("family", FAMILIES)
def test_bfloat16_stays_close_to_float32(family):
    args = (*inputs(), LABEL)
    out = small_unet(family(dtype="bfloat16"))[0](*args)
    assert out.dtype == jnp.float32
    assert 1e-4 < relative_error(out, small_unet(family())[0](*args)) < 2e-2


@each("family", FAMILIES)
def test_remat_recomputes_every_block_and_attention(family):
    model, plain = UNet(family(remat=True)), UNet(family())
    params = shapes(plain, *inputs())
    assert shapes(model, *inputs()) == params
    ops = lambda model: equations(model.apply, {"params": params}, *inputs())
    remat = lambda model: [op for op in ops(model) if op.primitive.name == "remat2"]
    # Every block and every attention starts with a norm; the network's last norm belongs to neither.
    units = {path.split(".norm")[0] for path in flat(params) if ".norm" in path} - {"norm_out"}
    assert len(remat(model)) == len(units)
    assert all(op.params["policy"] is None for op in remat(model))
    assert not remat(plain)


def test_remat_changes_no_output_and_no_gradient():
    x, emb = np.random.default_rng(0).standard_normal((2, 4, 4, 32)), np.ones((2, 128))
    plain, remat = Middle(ho(dropout=0.3)), Middle(ho(dropout=0.3, remat=True))
    params = random_params(plain, x, emb, False)

    def gradient(module):
        rngs = {"dropout": jax.random.key(1)}
        loss = lambda params, x: jnp.sum(module.apply({"params": params}, x, emb, True, rngs=rngs) ** 2)
        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, x)

    (out, (grads, dx)), (expected_out, (expected, expected_dx)) = gradient(remat), gradient(plain)
    np.testing.assert_allclose(out, expected_out, rtol=1e-5)
    np.testing.assert_allclose(dx, expected_dx, rtol=1e-4, atol=1e-4)
    largest = max(np.abs(leaf).max() for leaf in flat(expected).values())  # that of a key's bias is zero
    for path, leaf in flat(expected).items():
        np.testing.assert_allclose(flat(grads)[path], leaf, rtol=1e-3, atol=1e-6 * largest, err_msg=path)


def test_dropout_acts_in_training_only_and_by_its_key():
    args = (*inputs(), LABEL)
    apply, params = small_unet(ho())
    model = UNet(ho(dropout=0.5), num_classes=3)
    train = jax.jit(lambda key: model.apply({"params": params}, *args, train=True, rngs={"dropout": key}))
    without = apply(*args)
    np.testing.assert_allclose(small_unet(ho(dropout=0.5))[0](*args), without, rtol=1e-6)
    one, two = train(jax.random.key(1)), train(jax.random.key(2))
    np.testing.assert_array_equal(one, train(jax.random.key(1)))
    assert relative_error(one, without) > 0.05
    assert relative_error(one, two) > 0.05
