"""The Inception network and its weights, against recorded outputs of torch-fidelity's network."""

import hashlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from support.inception import published
from support.weights import GOLDEN, assert_agree

from ddpm_jax.convert import inception as convert
from ddpm_jax.convert.inception import inception_params, load_inception, published_shapes
from ddpm_jax.errors import UserError
from ddpm_jax.metrics.resize import inception_input
from ddpm_jax.models import inception

IMAGES = ("x32", "x64", "x299")
GOLDEN_NAMES = {"pool": "2048", "logits": "logits_unbiased", "pre_aux": "768"}


@pytest.fixture(scope="module")
def tensors():
    return published()


@pytest.fixture(scope="module")
def params(tensors):
    return inception_params(tensors, source="the drawn weights")


@pytest.fixture(scope="module")
def features(params):
    """The features of all recorded images, computed at once: `{name of the images: features}`."""
    recorded = {name: np.load(GOLDEN / "inception.npz")[name] for name in IMAGES}
    inputs = jnp.concatenate([inception_input(images, "torch_fidelity") for images in recorded.values()])
    out = jax.jit(inception.Inception().apply)({"params": params}, inputs)
    ends = np.cumsum([len(images) for images in recorded.values()])[:-1]
    parts = inception.InceptionFeatures(*(np.split(array, ends) for array in out))
    return {
        name: inception.InceptionFeatures(*part) for name, part in zip(recorded, zip(*parts, strict=True), strict=True)
    }


@pytest.mark.parametrize("images", IMAGES)
def test_features_are_those_of_torch_fidelity(features, images):
    recorded, spatial = np.load(GOLDEN / "inception.npz"), np.load(GOLDEN / "inception_spatial.npz")
    out = features[images]
    for ours, theirs in GOLDEN_NAMES.items():
        assert_agree(f"{images} {ours}", getattr(out, ours), recorded[f"{images}_{theirs}"])
    assert_agree(f"{images} spatial", out.spatial, spatial[f"{images}_spatial"])
    shapes = {name: array.shape for name, array in out._asdict().items()}
    batch = len(recorded[images])
    assert shapes == {"pool": (batch, 2048), "logits": (batch, 1008), "spatial": (batch, 2023), "pre_aux": (batch, 768)}


@pytest.mark.parametrize("shape", [(2, 9, 7, 3), (1, 8, 11, 2), (1, 3, 3, 1)])
def test_pools_are_those_of_a_window_without_padding(shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    _, height, width, _ = shape
    reach = lambda i, n: slice(max(i - 1, 0), min(i + 2, n))
    around = [[x[:, reach(i, height), reach(j, width)] for j in range(width)] for i in range(height)]
    windows = [
        [x[:, i : i + 3, j : j + 3].max((1, 2)) for j in range(0, width - 2, 2)] for i in range(0, height - 2, 2)
    ]
    each = lambda function: np.moveaxis([[function(part, (1, 2)) for part in row] for row in around], 2, 0)
    np.testing.assert_array_equal(inception.halved_max(x), np.moveaxis(windows, 2, 0))
    np.testing.assert_allclose(inception.neighbour_mean(jnp.asarray(x)), each(np.mean), atol=1e-6)
    np.testing.assert_array_equal(inception.neighbour_max(jnp.asarray(x)), each(np.max))


def test_every_product_is_in_float32_on_every_device():
    image = jax.ShapeDtypeStruct((1, 299, 299, 3), jnp.float32)
    params = jax.eval_shape(inception.Inception().init, jax.random.key(0), image)
    program = str(jax.make_jaxpr(inception.Inception().apply)(params, image))
    products = len(re.findall(r"dot_general\[|conv_general_dilated\[", program))
    exact = len(re.findall(r"precision=\(?Precision\.HIGHEST", program))
    assert products == exact == 95  # 94 convolutions and the logits


def test_the_shapes_are_those_of_the_published_file(tensors):
    assert published_shapes() == {name: array.shape for name, array in tensors.items()}


def test_a_batch_norm_is_part_of_its_convolution(tensors, params):
    """Against the definition, in float64: normalise the convolution of a single pixel, then scale and shift."""
    folded = params["Mixed_6d"]["branch7x7_1"]
    of = lambda name: tensors[f"Mixed_6d.branch7x7_1.{name}"].astype(np.float64)
    x = np.random.default_rng(0).standard_normal(768)
    h = (of("conv.weight")[:, :, 0, 0] @ x - of("bn.running_mean")) / np.sqrt(of("bn.running_var") + 0.001)
    np.testing.assert_allclose(
        x @ folded["kernel"][0, 0] + folded["bias"], h * of("bn.weight") + of("bn.bias"), atol=1e-5
    )


def test_tensors_of_training_alone_are_left_out(tensors, params):
    more = {
        "Conv2d_1a_3x3.bn.num_batches_tracked": np.array(0),
        "AuxLogits.fc.bias": np.zeros(1008, np.float32),
    }
    jax.tree.map(np.testing.assert_array_equal, inception_params(tensors | more, source="x"), params)


FAULTS = {
    "missing": (lambda w: w.pop("fc.bias"), r"missing: fc\.bias"),
    "left over": (lambda w: w.update({"Mixed_8a.weight": np.zeros(2)}), r"unexpected: Mixed_8a\.weight"),
    "torchvision": (
        lambda w: w.update({"fc.weight": np.zeros((1000, 2048))}),
        r"of another shape: fc\.weight is \[1000, 2048\] instead of \[1008, 2048\]",
    ),
    "not finite": (lambda w: w.update({"fc.bias": np.full(1008, np.nan)}), r"not finite .* in fc\.bias"),
    "nothing": (lambda w: w.clear(), "holds no tensors by name"),
}


@pytest.mark.parametrize("fault", list(FAULTS))
def test_weights_that_do_not_fit_are_one_line(tensors, fault):
    change, message = FAULTS[fault]
    changed = dict(tensors)
    change(changed)
    with pytest.raises(UserError, match=f"^weights.pth .*{message}"):
        inception_params(changed, source="weights.pth")


def test_a_file_is_read_if_its_digest_is_the_published_one(tensors, params, tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file(tensors, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(UserError, match=f"begins with {digest[:8]} instead of 6726825d; download pt_inception-2015"):
        load_inception(path)
    monkeypatch.setattr(convert, "DIGEST_START", digest[:8])
    loaded = load_inception(path)
    assert loaded.sha256 == digest
    jax.tree.map(np.testing.assert_array_equal, loaded.params, params)


@pytest.mark.parametrize(("name", "message"), [("absent.pth", "No such file"), (".", "Is a directory")])
def test_a_path_that_is_no_file_is_one_line(name, message, tmp_path):
    with pytest.raises(UserError, match=f"cannot read .*: {message}"):
        load_inception(tmp_path / name)
