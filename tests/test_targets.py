"""EDM's preconditioning and the velocity of the straight path: variances, weights, and one function in all targets."""

import jax.numpy as jnp
import numpy as np
import pytest
from support.analytic import ALL_TARGETS, each, keys, normal

from ddpm_jax.diffusion.arrays import noise_like
from ddpm_jax.diffusion.gaussian import q_sample
from ddpm_jax.diffusion.losses import edm_weight, eps_weight, flow_weight, l_simple, v_weight, x_0_weight
from ddpm_jax.diffusion.prediction import EdmTarget, Target, as_denoiser
from ddpm_jax.diffusion.samplers import dpm_solver_pp_2m, sample
from ddpm_jax.diffusion.schedules import linear, straight

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")

SCHEDULE = linear(1000)
TIMES = np.array([1.0, 30, 700, 1000])
OWN_WEIGHT = {"eps": eps_weight, "x_0": x_0_weight, "v": v_weight, "flow": flow_weight, "edm": edm_weight(0.7)}


@pytest.mark.parametrize("sigma_data", [0.25, 1.0])
@pytest.mark.parametrize("schedule", [linear(1000), straight(1000)])
def test_the_input_and_the_target_of_edm_have_unit_variance_at_every_level(schedule, sigma_data):
    """Exactly, from the factors of x_0 and eps, which are independent (Karras et al. 2022, appendix B.6)."""
    level, target = schedule.level(np.append(TIMES, 12.5)), EdmTarget(sigma_data)
    one, none = np.ones(5), np.zeros(5)
    of_x_0, of_eps = target.of(one, none, level), target.of(none, one, level)
    np.testing.assert_allclose(sigma_data**2 * of_x_0**2 + of_eps**2, 1, rtol=1e-12)
    x_0_in_input, eps_in_input = target.network_input(level.signal, level), target.network_input(level.sigma, level)
    np.testing.assert_allclose(sigma_data**2 * x_0_in_input**2 + eps_in_input**2, 1, rtol=1e-12)


def test_edm_is_its_papers_preconditioning():
    """Karras et al. 2022, table 1, with c_skip, c_out and c_in written out."""
    level, sigma_data, x_t, output = SCHEDULE.level(TIMES), 0.5, normal(4, 2, 2, 1), normal(4, 2, 2, 1, seed=1)
    sigma = (level.sigma / level.signal)[:, None, None, None]
    x_bar = x_t / level.signal[:, None, None, None]
    skip, out = sigma_data**2 / (sigma**2 + sigma_data**2), sigma * sigma_data / np.sqrt(sigma**2 + sigma_data**2)
    prediction = EdmTarget(sigma_data).prediction(output, x_t, level)
    np.testing.assert_allclose(prediction.x_0, skip * x_bar + out * output, rtol=1e-9)
    np.testing.assert_allclose(
        EdmTarget(sigma_data).network_input(x_t, level), x_bar / np.sqrt(sigma**2 + sigma_data**2), rtol=1e-12
    )


@each("name", {name: name for name in ALL_TARGETS})
def test_the_weight_of_a_target_is_the_error_of_the_network_itself(name):
    """Of what the network says, so that its loss has the same weight at every level."""
    target, images, level = ALL_TARGETS[name], normal(4, 3, 3, 1), SCHEDULE.level(TIMES)
    transition = SCHEDULE.between(TIMES, TIMES - 1)
    network = lambda variables, x, index, label: jnp.sin(3 * x)
    loss = l_simple(OWN_WEIGHT[name])(as_denoiser(network, {}, target), images, keys(4), transition)["loss"]
    eps = noise_like(keys(4), jnp.asarray(images))
    said = jnp.sin(3 * target.network_input(q_sample(images, eps, level), level))
    own = jnp.mean((said - target.of(images, eps, level)) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(loss, own, rtol=1e-8)


def test_one_function_gives_the_same_samples_in_every_target():
    """A network of v, written as the network of each other target."""
    function = lambda x_t, index: jnp.tanh(2 * x_t + index[:, None, None, None] / 500)
    chain, x_T = SCHEDULE.transitions([1000, 700, 300, 50, 3, 0]), normal(4, 2, 2, 1)
    reference = as_denoiser(lambda variables, x, index, label: function(x, index), {}, Target.V)
    draw = lambda denoise: sample(dpm_solver_pp_2m(), denoise, keys(4), x_T=x_T, transitions=chain)

    def written_for(target):
        def denoise(x_t, level):
            known = reference(x_t, level)

            def network(variables, given, index, label):
                return target.of(known.x_0, known.eps, level)

            return as_denoiser(network, {}, target)(x_t, level)

        return denoise

    expected = draw(reference)
    for target in ALL_TARGETS.values():
        np.testing.assert_allclose(draw(written_for(target)), expected, rtol=1e-8)
