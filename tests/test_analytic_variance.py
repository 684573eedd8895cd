"""The best variance that is equal for all pixels, against the exact posterior of a Gaussian and other variances."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.analytic import keys, normal, pick

from ddpm_jax.diffusion.analytic import Gaussian
from ddpm_jax.diffusion.arrays import noise_like
from ddpm_jax.diffusion.likelihood import bound_term
from ddpm_jax.diffusion.prediction import with_error
from ddpm_jax.diffusion.samplers import Variance, ancestral, p_mean_log_var, p_sample, sample
from ddpm_jax.diffusion.schedules import linear

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")

SCHEDULE = linear(40, beta_start=1e-3, beta_end=0.2)
EIGENVALUES = np.array([0.001, 0.04, 0.3, 0.9])
DATA = Gaussian(normal(2, 2, 1, seed=3) / 4, np.diag(EIGENVALUES))
TIMES = [[40, 39, 20, 2, 1, 0], [37, 5, 0]]


def mse(alpha_bar):
    """The exact mean squared error of E[x_0 | x_t], `tr Cov(x_0 | x_t) / D`."""
    return np.mean(EIGENVALUES * (1 - alpha_bar) / (alpha_bar * EIGENVALUES + 1 - alpha_bar))


ALPHA_BAR = SCHEDULE.alpha_bar[1:]
EXACT = np.array([mse(a) for a in ALPHA_BAR])


@pytest.mark.parametrize("times", TIMES)
def test_it_is_the_mean_variance_of_the_exact_reverse_step(times):
    """Of x_s given x_t, by the joint Gaussian of both; at s = 0 of the clean image."""
    chain, a = SCHEDULE.transitions(times), SCHEDULE.alpha_bar
    x_t = jnp.asarray(normal(3, 2, 2, 1))
    for i, (t, s) in enumerate(itertools.pairwise(times)):
        var_t, var_s = (a[u] * EIGENVALUES + 1 - a[u] for u in (t, s))
        exact = np.mean(var_s - a[t] / a[s] * var_s**2 / var_t)
        step = pick(chain, i)
        prediction = with_error(DATA.denoiser, EXACT)(x_t, step.now)
        _, log_var = p_mean_log_var(prediction, x_t, step, Variance.ANALYTIC)
        np.testing.assert_allclose(np.exp(log_var), exact, rtol=1e-10)


def terms(variance, errors=EXACT, n=64):
    """The mean terms of a chain whose mean is not exact, and the error of x_0 on the same images and noise."""
    x_0 = jnp.round((DATA.sample(jax.random.key(1), n).clip(-1, 1) + 1) * 127.5) / 127.5 - 1

    def denoise(x_t, level):
        exact = DATA.denoiser(x_t, level)
        return exact._replace(x_0=0.8 * exact.x_0 + 0.02)

    means, found = [], []
    chain = SCHEDULE.transitions([40, 30, 12, 3, 0])
    for i in range(chain.num_steps):
        step, noise_keys = pick(chain, i), keys(n, seed=i)
        with_errors = with_error(denoise, errors)
        term = bound_term(with_errors, x_0, noise_keys, transition=step, variance=variance)
        means.append(float(term["nats"].mean()))
        x_t = step.now.signal * x_0 + step.now.sigma * noise_like(noise_keys, x_0)
        found.append(float(jnp.mean((denoise(x_t, step.now).x_0 - x_0) ** 2)))
    return np.array(means), np.array(found)


def test_no_other_variance_has_lower_kl_terms():
    """With the error that was measured on the same draws: the term is then half the log of the ratio of variances."""
    measured = np.interp(np.arange(1, 41), [3, 12, 30, 40], np.log(terms(Variance.SMALL)[1][::-1]))
    best, small, large = (terms(v, np.exp(measured))[0] for v in (Variance.ANALYTIC, Variance.SMALL, Variance.LARGE))
    chain = SCHEDULE.transitions([40, 30, 12, 3, 0])
    factor = chain.next.signal * chain.beta / chain.now.sigma**2
    excess = np.log1p(factor**2 * np.exp(measured)[[39, 29, 11, 2]] / np.exp(chain.log_var_small))
    np.testing.assert_allclose(best[:-1], 4 * excess[:-1] / 2, rtol=1e-9)
    assert np.all(best[:-1] < small[:-1])
    assert np.all(best[:-1] < large[:-1])
    for scale in (0.9, 1.1):
        assert np.all(best[:-1] < terms(Variance.ANALYTIC, scale * np.exp(measured))[0][:-1])


def test_samples_of_few_steps_have_the_variance_of_the_data():
    """For N(0, c I) the exact reverse step is the analytic one; the other two draw too little noise and too much."""
    data, error = Gaussian(np.zeros((4, 4, 1)), 0.2 * np.eye(16)), [0.2 * (1 - a) / (1 - 0.8 * a) for a in ALPHA_BAR]
    drawn = {
        variance: sample(
            ancestral(variance),
            with_error(data.denoiser, np.array(error)),
            keys(2000),
            x_T=noise_like(keys(2000, seed=1), jnp.zeros((2000, 4, 4, 1))),
            transitions=SCHEDULE.transitions([40, 25, 10, 2, 1, 0]),
        )
        for variance in (Variance.ANALYTIC, Variance.SMALL, Variance.LARGE)
    }
    spread = {variance: float(jnp.var(images)) for variance, images in drawn.items()}
    assert spread[Variance.ANALYTIC] == pytest.approx(0.2, rel=0.04)  # less the noise that the last step leaves out
    assert spread[Variance.SMALL] < 0.1
    assert spread[Variance.LARGE] > 0.3


def test_the_last_noise_is_at_most_one_grey_value():
    """Its mean size; Bao et al. 2022a, section 4."""
    step, denoise = pick(SCHEDULE.transitions([40, 20, 10, 0]), 1), with_error(DATA.denoiser, EXACT)
    images = [
        p_sample(denoise, keys(500), x_t=jnp.zeros((500, 2, 2, 1)), transition=one, variance=Variance.ANALYTIC)
        for one in (step, step._replace(left=3.0))
    ]
    limited, free = (float(jnp.mean(jnp.abs(one - one.mean(0)))) for one in images)
    assert limited == pytest.approx(2 / 255, rel=0.05)
    assert free > 10 * limited


def test_without_an_expected_error_it_is_refused():
    step = pick(SCHEDULE.transitions(), 0)
    with pytest.raises(ValueError, match="needs the expected error of x_0"):
        bound_term(DATA.denoiser, jnp.zeros((1, 2, 2, 1)), keys(1), transition=step, variance=Variance.ANALYTIC)
