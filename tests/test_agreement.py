"""Conventions in which published code differs from ours, by how much: the rows of `docs/agreement.md`.

The other projects' formulas are written out in NumPy; `convert/test_agreement_with_diffusers.py` runs diffusers itself.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm
from support.agreement import different, equal
from support.analytic import MIXTURE, each, keys, normal, pick

from ddpm_jax.diffusion import timesteps
from ddpm_jax.diffusion.arrays import noise_like
from ddpm_jax.diffusion.gaussian import discretized_log_prob_nats, normal_cdf, normal_kl_nats, q_posterior, tanh_cdf
from ddpm_jax.diffusion.guidance import classifier_free, classifier_guided, clip_x_0, mean_guided, side_by_side
from ddpm_jax.diffusion.likelihood import density_to_bits_per_dim, term_nats
from ddpm_jax.diffusion.prediction import Prediction
from ddpm_jax.diffusion.samplers import Variance, ancestral, ddim, sample
from ddpm_jax.diffusion.samplers.ancestral import p_mean_log_var, p_sample, step_kl_nats
from ddpm_jax.diffusion.schedules import cosine, linear

VARIANCES = {variance.value: variance for variance in (Variance.SMALL, Variance.LARGE, Variance.LEARNED)}
LEVELS = np.arange(256) / 127.5 - 1
SCHEDULE = linear(1000)


def apart(ours, theirs):
    """The largest relative difference, with respect to the largest number."""
    return float(np.abs(np.asarray(ours) - np.asarray(theirs)).max() / np.abs(np.asarray(theirs)).max())


def guided_diffusion_log_prob(x, mean, log_var):
    """`discretized_gaussian_log_likelihood` of improved and guided diffusion, which is also Ho et al.'s."""
    cdf = lambda x: 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    scale, centred = np.exp(-0.5 * log_var), x - mean
    plus, minus = cdf(scale * (centred + 1 / 255)), cdf(scale * (centred - 1 / 255))
    inside = np.where(x > 0.999, 1 - minus, plus - minus)
    return np.log(np.maximum(np.where(x < -0.999, plus, inside), 1e-12))


def test_the_decoder_with_tanh_is_published_codes(x64):
    mean, log_var = np.meshgrid(np.linspace(-1.1, 1.1, 23), np.log([1e-4, 1e-3, 1e-2, 1.0]))
    x, mean, log_var = LEVELS[:, None, None], mean[None], log_var[None]
    theirs = guided_diffusion_log_prob(x, mean, log_var)
    ours = np.exp(discretized_log_prob_nats(x, mean, log_var, tanh_cdf))
    equal("decoder, tanh", float(np.abs(ours - np.exp(theirs)).max()))
    grid = np.linspace(-6, 6, 10_001)
    assert 1e-4 < np.abs(tanh_cdf(grid) - norm.cdf(grid)).max() < 4e-4


def test_the_last_term_by_the_exact_cdf_and_by_tanh(x64):
    """Of images whose estimate at t = 1 is off by what the noise there leaves, in bits per dimension."""
    x_0 = LEVELS[np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3))]
    last = pick(SCHEDULE.transitions(), -1)
    prediction = Prediction(x_0 + 0.01 * normal(*x_0.shape), normal(*x_0.shape, seed=1))
    exact, tanh = (
        float(term_nats(prediction, x_0, x_0, transition=last, variance=Variance.SMALL, cdf=cdf).mean())
        for cdf in (normal_cdf, tanh_cdf)
    )
    different("last term of the bound", abs(exact - tanh) / (16 * 16 * 3 * np.log(2)))


@each("variance", VARIANCES)
@each("schedule", {"linear": linear, "cosine": cosine})
@pytest.mark.parametrize("error", [0.0, 0.3])
def test_terms_of_the_bound_near_t_are_right_in_float32(schedule, variance, error):
    """Within 1e-5 of float64 for t > 900, where Ho et al.'s formula loses the difference of two means."""
    schedule = schedule(1000)
    index = np.arange(99)
    x_0 = LEVELS[np.random.default_rng(0).integers(0, 256, (99, 4, 4, 3))].astype(np.float32)
    estimate = (x_0 + error * normal(*x_0.shape)).astype(np.float32)
    var_frac = np.random.default_rng(1).uniform(0.1, 0.9, x_0.shape).astype(np.float32)
    transitions = schedule.transitions()
    float32 = jax.tree.map(np.float32, pick(transitions, index))
    prediction = Prediction(jnp.asarray(estimate), jnp.asarray(x_0), jnp.asarray(var_frac))
    ours = step_kl_nats(prediction, x_0, transition=float32, variance=variance)
    assert ours.dtype == jnp.float32
    ours = np.broadcast_to(ours, x_0.shape).astype(np.float64).sum(axis=(1, 2, 3))
    a = schedule.alpha_bar.astype(np.longdouble)[:, None, None, None]
    t = 1000 - index
    beta, total = 1 - a[t] / a[t - 1], 0
    share = {Variance.SMALL: 0, Variance.LARGE: 1, Variance.LEARNED: var_frac.astype(np.longdouble)}[variance]
    gap = share * (np.log1p(-a[t]) - np.log1p(-a[t - 1])) + np.zeros_like(x_0, np.longdouble)
    log_var = np.log((1 - a[t - 1]) / (1 - a[t]) * beta) + gap
    weight = np.sqrt(a[t - 1]) * beta / (1 - a[t])
    off = weight * (estimate.astype(np.longdouble) - x_0.astype(np.longdouble))
    total = 0.5 * (gap + np.expm1(-gap) + off**2 * np.exp(-log_var))
    expected = total.sum(axis=(1, 2, 3)).astype(np.float64)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=0)
    if variance is Variance.LARGE and error and schedule.alpha_bar[-1] > 1e-5:
        x_t = np.float32(normal(*x_0.shape, seed=2))
        mean, log_var = p_mean_log_var(prediction, x_t, float32, variance)
        by_means = normal_kl_nats(*q_posterior(x_0, x_t, float32), mean, log_var).sum(axis=(1, 2, 3))
        equal("KL terms in float32 by means", float(np.abs(by_means / expected - 1).max()))
        equal("KL terms in float32", float(np.abs(ours / expected - 1).max()))


@each("variance", VARIANCES)
def test_a_term_is_the_kl_of_its_two_gaussians(x64, variance):
    """With and without a gradient that shifts the mean."""
    transition, x_0 = pick(SCHEDULE.transitions(), slice(600, 603)), np.tanh(normal(3, 2, 2, 1))
    x_t, gradient = normal(3, 2, 2, 1, seed=1), normal(3, 2, 2, 1, seed=2)
    for shift in (None, gradient):
        prediction = Prediction(np.tanh(x_t), x_t, 0.3 + 0.1 * x_0, shift)
        mean, log_var = p_mean_log_var(prediction, x_t, transition, variance)
        expected = normal_kl_nats(*q_posterior(x_0, x_t, transition), mean, log_var)
        ours = step_kl_nats(prediction, x_0, transition=transition, variance=variance)
        np.testing.assert_allclose(ours, expected, rtol=1e-6)


CLASS, ANY = MIXTURE.components[1].denoiser, MIXTURE.denoiser


def log_prob(x_t, level):
    return MIXTURE.log_prob_label(x_t, level)[:, 1]


def end(denoise, sampler=None):
    """The end of a chain of 50 steps from the same noise."""
    transitions = SCHEDULE.transitions(timesteps.linspace(SCHEDULE, 50))
    sampler = sampler or ancestral(Variance.SMALL)
    return jax.jit(lambda x: sample(sampler, denoise, keys(256), x_T=x, transitions=transitions))(normal(256, 2))


def rms(a, b):
    return float(np.sqrt(np.mean((np.asarray(a) - np.asarray(b)) ** 2)))


@each("sampler", {"ancestral": ancestral(Variance.SMALL), "DDIM": ddim()})
def test_clipping_before_guidance_or_after(x64, sampler, request):
    """Of two denoisers, in units of the data, whose range is [-1, 1]."""
    after = clip_x_0(classifier_free(side_by_side(CLASS, ANY), 3.0))
    before = classifier_free(side_by_side(clip_x_0(CLASS), clip_x_0(ANY)), 3.0)
    name = request.node.callspec.id
    different(f"clipping before guidance, {name}", rms(end(after, sampler), end(before, sampler)))


def test_guidance_on_the_score_or_on_the_mean(x64):
    """Without clipping, of the chain and of one step, which is `condition_mean` of guided diffusion."""
    on_score, on_mean = (guide(ANY, log_prob, 3.0) for guide in (classifier_guided, mean_guided))
    different("guidance on the mean", rms(end(on_score), end(on_mean)))


@each("variance", VARIANCES)
@pytest.mark.parametrize("index", [5, 999])
def test_guidance_on_the_mean_is_condition_mean(x64, variance, index):
    """`mean + variance * scale * gradient`, at the last step too, with the same noise."""
    transition, x_t = pick(SCHEDULE.transitions(), index), normal(64, 2)
    with_variance = lambda x_t, level: ANY(x_t, level)._replace(var_frac=jnp.full(x_t.shape, 0.3))
    gradient = jax.grad(lambda x: log_prob(x, transition.now).sum())(x_t)
    mean, log_var = p_mean_log_var(with_variance(x_t, transition.now), x_t, transition, variance)
    drawn = jnp.where(transition.next.t > 0, jnp.exp(log_var / 2), 0) * noise_like(keys(64), x_t)
    theirs = mean + jnp.exp(log_var) * 2.5 * gradient + drawn
    guided = clip_x_0(mean_guided(with_variance, log_prob, 2.5), -9, 9)  # clipping composes, and passes it on
    ours = p_sample(guided, keys(64), x_t=x_t, transition=transition, variance=variance)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)
    assert np.abs(gradient).max() > 1e-3


def test_the_width_of_a_grey_value():
    """score_sde has values of 2/256 in [-1, 1] where an 8-bit value has 2/255: 7 bits against log2(127.5)."""
    different("bits of a grey value", abs(7 - float(density_to_bits_per_dim(0.0, (1,)))))


def test_the_start_of_leading():
    """Its first time, at which the chain starts from pure noise, and what is left of the image there and at T."""
    for grid in (timesteps.leading, timesteps.trailing):
        first = SCHEDULE.level(grid(SCHEDULE, 10)[0])
        different(f"signal at the first time of `{grid.__name__}`", float(first.signal))


def test_the_average_of_the_parameters():
    """The share of the initial parameters in an average of decay 0.9999 after 10,000 steps, without our warm-up."""
    ours = np.prod([min(0.9999, (1 + n) / (10 + n)) for n in range(1, 10_001)])
    different("share of the initial parameters", 0.9999**10_000 - ours)
