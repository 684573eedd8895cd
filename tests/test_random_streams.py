"""Every random number of a train step and of a sampling step has a key to itself, which has no children."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from support.recorded_keys import recorded
from support.tiny import tiny_config

from ddpm_jax import factory
from ddpm_jax.runs.configured import chain_of
from ddpm_jax.runtime.devices import device_mesh
from ddpm_jax.training.step import draw_examples, train_step

pytestmark = pytest.mark.usefixtures("quick_compilation")

SMALL = {"data__random_flip": True, "train__batch_size": 2}
CLASSES = {"labels__num_classes": 10}
CLASSIFIER = {**SMALL, **CLASSES, "task": "classify"}
STUDENT = {
    "task": "distil",
    "diffusion__target": "v",
    "distil__first_steps": 4,
    "sample__sampler": "ddim",
    "sample__num_steps": 2,
    "sample__clip_x_0": False,
}


class Network(nn.Module):
    """A linear map of pixels behind a dropout, in place of the U-Net and of the classifier.

    Attributes:
      channels: of the result; with `pooled` the mean over the pixels is taken.
    """

    channels: int
    pooled: bool = False

    @nn.compact
    def __call__(self, x, index, label=None, *, until=None, train=False):
        """The result, `[B, H, W, channels]` or `[B, channels]`."""
        x = nn.Dense(self.channels, name="pool")(nn.Dropout(0.5, deterministic=not train)(x))
        return x.mean((1, 2)) if self.pooled else x


def network(config):
    """A small network of the right form."""
    if config.task == "classify":
        return Network(config.labels.num_classes, pooled=True)
    return Network(2 if config.diffusion.learned_variance else 1)


def batch(config):
    """Random images and labels."""
    rng, size = np.random.default_rng(0), config.train.batch_size
    return {
        "image": jnp.asarray(rng.integers(0, 256, (size, 8, 8, 1)), jnp.uint8),
        "label": jnp.arange(size, dtype=jnp.int32),
    }


@pytest.mark.parametrize(
    "changes",
    [
        {**SMALL, **CLASSES, "labels__dropout": 0.5},
        {**SMALL, "train__accumulation": 2, "loss__times": "antithetic"},
        pytest.param(
            {**SMALL, "diffusion__learned_variance": True, "loss__kind": "vlb", "loss__times": "importance"},
            marks=pytest.mark.slow,
        ),
        pytest.param(CLASSIFIER, marks=pytest.mark.slow),
        pytest.param(
            {**CLASSIFIER, "posterior__weights": "all", "posterior__samples_per_step": 2}, marks=pytest.mark.slow
        ),
        {**SMALL, **CLASSES, "labels__dropout": 0.5, **STUDENT},
    ],
    ids=["labels hidden", "accumulated", "bound", "classifier", "posterior", "student"],
)
def test_a_train_step_consumes_no_key_twice_and_none_with_children(changes):
    config = tiny_config(**changes)
    model = network(config)
    spec = factory.train_spec(config, model, num_images=100)
    with recorded() as (uses, generator):
        state = factory.state_init(config, model, spec)(jax.random.key(0, impl=generator))
        train_step(spec, state, batch(config))
    uses.check()


@pytest.mark.parametrize("sampler", sorted(factory.SAMPLERS))
@pytest.mark.parametrize("corrector_steps", [0, 2])
def test_a_chain_consumes_no_key_twice_and_none_with_children(sampler, corrector_steps):
    changes = {"sample__sampler": sampler, "sample__eta": 0.5, "sample__corrector_steps": corrector_steps}
    if sampler == "mean_flow":
        changes |= {"task": "distil", "distil__method": "mean_flow"}
    chain, params = tiny_chain(**changes)
    with recorded() as (uses, generator):
        chain(params, jax.random.key(0, impl=generator), indices=[0, 7])
    uses.check()


@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
def test_filling_in_consumes_no_key_twice_and_none_with_children(sampler):
    chain, params = tiny_chain(inpainting=(jnp.zeros((8, 8, 1)), jnp.eye(8)[..., None]), sample__sampler=sampler)
    with recorded() as (uses, generator):
        chain(params, jax.random.key(0, impl=generator), indices=[0, 7])
    uses.check()


def tiny_chain(*, inpainting=None, **changes):
    """A chain of three steps on one device, and the parameters of its network."""
    config = tiny_config(**changes)
    model = network(config)
    params = factory.initial_params(config, model)(jax.random.key(1))
    mesh = device_mesh(jax.devices()[:1])
    return chain_of(config, model, num_steps=3, mesh=mesh, inpainting=inpainting), params


def test_noise_flips_and_hidden_labels_are_independent():
    """Over many images no draw tells anything of another, beyond chance."""
    num = 4096
    config = tiny_config(**SMALL, **CLASSES, labels__dropout=0.5)
    spec = factory.train_spec(config, network(config), num_images=100)
    marked = np.zeros((num, 8, 8, 1), np.uint8)
    marked[:, :, 0] = 255  # a white column on the left tells whether the image was flipped
    drawn = draw_examples(spec, {"image": marked, "label": np.zeros(num, int)}, jax.random.key(0), times_state=())
    flips = np.asarray(drawn.x_0[:, 0, 0, 0]) < 0
    hidden = np.asarray(jax.vmap(lambda key: jax.random.bernoulli(key, 0.5))(drawn.label_keys))
    noise = np.asarray(jax.vmap(lambda key: jax.random.normal(key, (64,)))(drawn.noise_keys))
    correlation = np.corrcoef(np.column_stack([flips, hidden, noise]), rowvar=False) - np.eye(66)
    assert np.abs(correlation).max() < 5 / np.sqrt(num)


def test_the_check_finds_a_parent_that_is_consumed_and_a_key_consumed_twice():
    for wrong in (
        lambda key: (jax.random.normal(key), jax.random.fold_in(key, 1)),
        lambda key: (jax.random.normal(key), jax.random.split(key)),
        lambda key: (jax.random.normal(key), jax.random.bernoulli(key)),
    ):
        with recorded() as (uses, generator):
            wrong(jax.random.key(0, impl=generator))
        with pytest.raises(AssertionError):
            uses.check()
