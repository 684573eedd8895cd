"""What must hold on a GPU too: numbers of the CPU up to rounding, repeatable steps, images that no batch size changes.

`JAX_PLATFORMS=cuda,cpu XLA_FLAGS=--xla_gpu_deterministic_ops=true pytest -m gpu` with a GPU; skipped elsewhere.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax import factory
from ddpm_jax.config import experiment
from ddpm_jax.runs.configured import chain_of
from ddpm_jax.runtime.devices import device_mesh, global_batch, replicated
from ddpm_jax.runtime.images import to_uint8
from ddpm_jax.training.loop import compiled_step

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU: JAX_PLATFORMS=cuda,cpu pytest -m gpu"),
]


def digits(dtype: str = "float32"):
    """The configuration of the digits in a type, without dropout, and its network."""
    config = experiment("digits")
    config.model.dtype = dtype
    config.model.dropout = 0.0
    return config, factory.network(config)


@pytest.mark.parametrize(("dtype", "precision", "tolerance"), [
    ("float32", "highest", 2e-4), ("float32", None, 2e-2), ("bfloat16", None, 5e-2)
])  # fmt: skip
def test_the_network_computes_what_it_computes_on_a_cpu(dtype, precision, tolerance):
    config, model = digits(dtype)
    cpu = jax.devices("cpu")[0]
    reference = factory.network(digits()[0])
    with jax.default_device(cpu):
        params = factory.initial_params(config, model)(jax.random.key(0))
        params = jax.tree.map(lambda p: p + 0.02 * jax.random.normal(jax.random.key(p.size), p.shape), params)
        x, t = jax.random.normal(jax.random.key(1), (4, 8, 8, 1)), jnp.arange(4.0) * 300
        expected = np.asarray(reference.apply({"params": params}, x, t), np.float64)
    with jax.default_matmul_precision(precision):
        on_gpu = jax.device_put((params, x, t), jax.devices("gpu")[0])
        found = np.asarray(jax.jit(lambda p, x, t: model.apply({"params": p}, x, t))(*on_gpu), np.float64)
    assert np.linalg.norm(found - expected) < tolerance * np.linalg.norm(expected)


@pytest.mark.skipif(
    "--xla_gpu_deterministic_ops=true" not in os.environ.get("XLA_FLAGS", ""),
    reason="a GPU adds in any order unless XLA_FLAGS=--xla_gpu_deterministic_ops=true",
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_same_steps_from_the_same_state_give_the_same_bits(dtype):
    config, model = digits(dtype)
    config.model.dropout = 0.1
    mesh = device_mesh()
    spec = factory.train_spec(config, model, num_images=100)
    init = jax.jit(factory.state_init(config, model, spec), out_shardings=replicated(mesh))
    images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), np.uint8)
    batch = global_batch(mesh, {"image": images, "label": np.zeros(64, np.int32)})
    step = compiled_step(spec, mesh, init(jax.random.key(0)))

    def trained():
        state = init(jax.random.key(0))
        for _ in range(10):
            state, metrics = step(state, batch)
        return jax.device_get((state.params, metrics["loss"]))

    for one, other in zip(*map(jax.tree.leaves, (trained(), trained())), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_step_has_the_loss_of_a_cpu():
    config, model = digits()
    spec = factory.train_spec(config, model, num_images=100)
    images = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 1), np.uint8)
    losses = []
    for name in ("cpu", "gpu"):
        mesh = jax.sharding.Mesh(
            np.array(jax.devices(name)[:1]).reshape(device_mesh().devices.shape), device_mesh().axis_names
        )
        state = jax.jit(factory.state_init(config, model, spec), out_shardings=replicated(mesh))(jax.random.key(0))
        batch = global_batch(mesh, {"image": images, "label": np.zeros(32, np.int32)})
        losses.append(float(compiled_step(spec, mesh, state)(state, batch)[1]["loss"]))
    np.testing.assert_allclose(*losses, rtol=2e-3)


def test_an_image_does_not_depend_on_the_batch():
    config, model = digits()
    mesh = device_mesh()
    params = jax.jit(factory.initial_params(config, model), out_shardings=replicated(mesh))(jax.random.key(0))
    chain = chain_of(config, model, num_steps=20, mesh=mesh)
    together = to_uint8(chain(params, jax.random.key(0), indices=np.arange(16)))
    apart = to_uint8(chain(params, jax.random.key(0), indices=np.arange(5, 8)))
    assert np.abs(together[5:8].astype(int) - apart.astype(int)).max() <= 1
