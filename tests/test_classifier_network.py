"""The classifier: its pool against NumPy, what an image's logits depend on, and bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.analytic import each, normal
from support.networks import FAMILIES, adm, equations, flat, ho, inputs, random_params, shapes

from ddpm_jax.models import Classifier
from ddpm_jax.models.classifier import AttentionPool

pytestmark = pytest.mark.usefixtures("quick_compilation")


def relative_error(out, expected):
    out, expected = np.asarray(out, np.float64), np.asarray(expected, np.float64)
    return np.linalg.norm(out - expected) / np.linalg.norm(expected)


def small_classifier(arch, *, seed=0, **options):
    """A classifier of five classes as a jitted function of (x, index), with random parameters."""
    model = Classifier(arch, num_classes=5)
    params = random_params(model, *inputs(), seed=seed)
    return jax.jit(lambda x, index, rngs=None: model.apply({"params": params}, x, index, rngs=rngs, **options))


@pytest.mark.parametrize("heads", [{"num_heads": 4}, {"head_channels": 16}], ids=["number", "width"])
def test_the_pool_is_the_mean_tokens_row_of_self_attention(heads):
    """All tokens attend to all, in NumPy; of the answers the first is kept."""
    x, pool = normal(2, 4, 3, 32).astype(np.float32), AttentionPool(ho(**heads), features=7)
    params = random_params(pool, x)
    tokens = np.float64(x.reshape(2, 12, 32))
    tokens = np.concatenate([tokens.mean(axis=1, keepdims=True), tokens], axis=1) + params["embedding"]
    linear = lambda name, h: h @ np.float64(params[name]["kernel"]) + params[name]["bias"]
    size = heads.get("head_channels", 8)
    query, key, value = (linear(name, tokens).reshape(2, 13, -1, size) for name in ("query", "key", "value"))
    weight = np.exp(np.einsum("bqhc,bkhc->bhqk", query, key) / np.sqrt(size))
    answers = np.einsum("bhqk,bkhc->bqhc", weight / weight.sum(axis=-1, keepdims=True), value)
    expected = linear("out", answers.reshape(2, 13, 32))[:, 0]
    np.testing.assert_allclose(pool.apply({"params": params}, x), expected, rtol=1e-5, atol=1e-5)


@each("family", FAMILIES)
def test_time_and_image_change_the_logits_of_their_own_row_only(family):
    classify, (x, _), index = small_classifier(family()), inputs(), np.array([10.0, 20.0])
    out, moved = np.asarray(classify(x, index)), x.copy()
    moved[1, 3, 5] += 1.0
    for other in (classify(x, np.array([10.0, 21.0])), classify(moved, index)):
        np.testing.assert_array_equal(other[0], out[0])
        assert relative_error(other[1], out[1]) > 1e-3


def test_logits_do_not_depend_on_the_batch_mates():
    classify, (x, index) = small_classifier(adm()), inputs(4)
    alone = np.concatenate([classify(x[i : i + 1], index[i : i + 1]) for i in range(4)])
    np.testing.assert_allclose(classify(x, index), alone, rtol=1e-5, atol=1e-5)


def test_before_training_all_classes_are_equally_likely():
    model = Classifier(ho(), num_classes=5)
    logits, variables = jax.jit(model.init_with_output)(jax.random.key(0), *inputs())
    np.testing.assert_array_equal(logits, np.zeros((2, 5)))
    embedding = variables["params"]["pool"]["embedding"]
    assert embedding.shape == (17, 64)
    assert embedding.std() == pytest.approx(1 / 8, rel=0.1)


@pytest.mark.parametrize(("height", "width"), [(6, 8), (8, 10)])
def test_sides_that_cannot_be_halved_are_refused(height, width):
    model = Classifier(ho(channel_mult=(1, 2, 2)), num_classes=5)
    with pytest.raises(ValueError, match=rf"3 levels need sides divisible by 4, got \({height}, {width}\)"):
        shapes(model, *inputs(height=height, width=width))


@each("family", FAMILIES)
def test_bfloat16_computes_the_body_and_float32_the_softmax_and_the_logits(family):
    model, args = Classifier(family(dtype="bfloat16"), num_classes=5), inputs()
    params = shapes(model, *args)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    ops = equations(model.apply, {"params": params}, *args)
    types = lambda name: [tuple(str(v.aval.dtype) for v in op.invars) for op in ops if op.primitive.name == name]
    *body, out = types("dot_general")
    assert set(body) == set(types("convolution")) == {("bfloat16", "bfloat16")}
    assert out == ("float32", "float32")
    assert set(types("exp")) == set(types("reduce_max")) == set(types("rsqrt")) == {("float32",)}


@each("family", FAMILIES)
def test_bfloat16_stays_close_to_float32(family):
    out = small_classifier(family(dtype="bfloat16"))(*inputs())
    assert out.dtype == jnp.float32
    assert 1e-4 < relative_error(out, small_classifier(family())(*inputs())) < 5e-2


def test_dropout_acts_in_training_only_and_by_its_key():
    without = small_classifier(ho())(*inputs())
    np.testing.assert_allclose(small_classifier(ho(dropout=0.5))(*inputs()), without, rtol=1e-6)
    train = small_classifier(ho(dropout=0.5), train=True)
    one, two = (train(*inputs(), rngs={"dropout": jax.random.key(seed)}) for seed in (1, 2))
    assert relative_error(one, without) > 0.05
    assert relative_error(one, two) > 0.05


def test_dropout_acts_in_every_residual_block():
    model, args = Classifier(ho(dropout=0.5), num_classes=5), inputs()
    params, rngs = shapes(model, *args), {"dropout": jax.random.key(0)}

    def num_masks(train):
        ops = equations(lambda params: model.apply({"params": params}, *args, train=train, rngs=rngs), params)
        return sum(op.primitive.name == "random_bits" for op in ops)

    assert num_masks(True) == sum(path.endswith("conv_1.kernel") for path in flat(params)) == 4
    assert num_masks(False) == 0
