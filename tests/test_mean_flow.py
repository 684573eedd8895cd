"""Students that know where a step ends: no error at the exact average velocity, and exact steps of any length."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.analytic import MIXTURE, keys, normal

from ddpm_jax.diffusion import schedules, timesteps
from ddpm_jax.diffusion.analytic import Gaussian
from ddpm_jax.diffusion.continuous import on_straight_path, transitions_at
from ddpm_jax.diffusion.guidance import classifier_free, side_by_side
from ddpm_jax.diffusion.mean_flow import Spans, average_velocity, l_mean_flow, mean_flow_error
from ddpm_jax.diffusion.prediction import Prediction
from ddpm_jax.diffusion.samplers import heun, mean_flow, sample

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")
SCHEDULES = {"cosine": schedules.cosine(1000), "straight": schedules.straight(1000)}
BOTH = pytest.mark.parametrize("schedule", [SCHEDULES[name] for name in SCHEDULES], ids=list(SCHEDULES))


def share_of(level):
    return level.sigma / (level.signal + level.sigma)


def column(leaf, y):
    return jnp.reshape(leaf, (-1,) + (1,) * (y.ndim - 1))


def velocity_of(denoise, schedule):
    """The velocity on the straight path, from a denoiser without an end of the step: `(y, s) -> [B, ...]`."""
    average = average_velocity(denoise, on_straight_path(schedule))
    return lambda y, share: average(y, share, None)


def integrated(denoise, schedule, num_steps=60):
    """The exact average velocity, of the trajectory by the classical method of Runge and Kutta."""
    velocity, table = velocity_of(denoise, schedule), schedule.transitions()

    def average(y, share, until):
        end = jnp.where(until < 1, 0.0, share_of(transitions_at(table, jnp.maximum(until, 1.0)).now))
        step = (end - share) / num_steps
        h = column(step, y)

        def moved(i, x):
            s = share + i * step
            k_1 = velocity(x, s)
            k_2 = velocity(x + h / 2 * k_1, s + step / 2)
            k_3 = velocity(x + h / 2 * k_2, s + step / 2)
            k_4 = velocity(x + h * k_3, jnp.maximum(s + step, 1e-9))
            return x + h / 6 * (k_1 + 2 * k_2 + 2 * k_3 + k_4)

        return (y - jax.lax.fori_loop(0, num_steps, moved, y)) / column(share - end, y)

    return average


def as_denoiser(average):
    """The denoiser whose estimates take the steps of an average velocity."""

    def denoise(x_t, level):
        full = jax.tree.map(lambda leaf: jnp.broadcast_to(jnp.asarray(leaf), len(x_t)), level)
        share, y = share_of(full), x_t / column(full.signal + full.sigma, x_t)
        u = average(y, share, full.until)
        return Prediction(y - column(share, y) * u, y + column(1 - share, y) * u)

    return denoise


def spans(schedule, *pairs):
    """The steps between pairs of times, leaves `[B]`."""
    steps = [schedule.between(t, r) for t, r in pairs]
    return jax.tree.map(lambda *leaves: jnp.asarray(leaves, float), *steps)


@BOTH
def test_the_error_is_zero_at_the_exact_average_velocity_and_nowhere_else(schedule):
    """By the mean velocity, of trajectories of a mixture that were found by integration."""
    transition = spans(schedule, (900.0, 100.0), (700.0, 400.0), (500.25, 500.0), (300.0, 20.5))
    y, share = jnp.asarray(normal(4, 2)), share_of(transition.now)
    velocity = velocity_of(MIXTURE.denoiser, schedule)
    exact = integrated(MIXTURE.denoiser, schedule)
    of = jax.jit(lambda average: mean_flow_error(average, velocity(y, share), y, transition), static_argnums=0)
    assert np.max(np.abs(of(exact))) < 1e-5
    error = of(lambda y, share, until: velocity(y, share))
    assert np.min(np.max(np.abs(error[jnp.array([0, 1, 3])]), axis=1)) > 1e-3


def gaussian(y, share, until, schedule):
    """The exact average velocity of one Gaussian pixel of mean 0.3 and variance 0.25."""
    end = share_of(transitions_at(schedule.transitions(), until).now)
    spread = lambda s: jnp.sqrt(0.25 * (1 - s) ** 2 + s**2)
    deviation = y - 0.3 * column(1 - share, y)
    ended = 0.3 * column(1 - end, y) + column(spread(end) / spread(share), y) * deviation
    return (y - ended) / column(share - end, y)


def test_the_expected_gradient_of_single_images_is_zero_at_the_exact_average_velocity():
    """By quadrature over image and noise; the velocity of one image is that of the flow in the mean only."""
    schedule, num = SCHEDULES["straight"], 40
    points, weights = np.polynomial.hermite_e.hermegauss(num)
    z, eps = (np.ravel(axis)[:, None] for axis in np.meshgrid(points, points))
    weight = np.outer(weights, weights).ravel() / np.sum(weights) ** 2
    transition = spans(schedule, *[(700.0, 200.0)] * len(z))
    x_0 = 0.3 + 0.5 * z
    y = column(1 - share_of(transition.now), z) * x_0 + column(share_of(transition.now), z) * eps

    def gradient(feature, bias):
        def loss(slope):
            average = lambda y, share, until: gaussian(y, share, until, schedule) + (slope + bias) * feature(y)
            error = mean_flow_error(average, eps - x_0, y, transition)
            return jnp.sum(weight[:, None] * error**2)

        return float(jax.jit(jax.grad(loss))(0.0))

    for feature in (jnp.ones_like, lambda y: y, jnp.sin):
        assert abs(gradient(feature, 0.0)) < 1e-10
        assert abs(gradient(feature, 0.1)) > 1e-2


def test_the_guided_loss_has_no_expected_gradient_at_the_exact_average_velocity_of_the_guided_flow():
    """Of images of one class, of which the velocity without the class knows nothing, within sampling error."""
    schedule, num, scale = SCHEDULES["straight"], 20_000, 2.5
    one, whole = Gaussian([0.3], [[0.25]]), Gaussian([-0.2], [[0.64]])
    transition = jax.tree.map(lambda leaf: jnp.repeat(leaf, num), spans(schedule, (700.0, 200.0)))
    x_0 = one.sample(jax.random.key(3), num)
    guided = integrated(classifier_free(side_by_side(one.denoiser, whole.denoiser), scale), schedule)

    def gradients(average, feature=jnp.ones_like):
        def loss(slope):
            student = as_denoiser(lambda y, share, until: average(y, share, until) + slope * feature(y))
            terms = l_mean_flow(schedule, power=0.0, guidance_scale=scale)
            return terms(student, whole.denoiser, x_0, keys(num), transition)["loss"]

        return jax.jit(lambda slope: jax.jvp(loss, (slope,), (1.0,))[1])(0.0)

    error = lambda found: float(jnp.abs(jnp.mean(found)) / (jnp.std(found) / num**0.5))
    for feature in (jnp.ones_like, lambda y: y, jnp.sin):
        assert error(gradients(guided, feature)) < 3.5
    assert error(gradients(integrated(one.denoiser, schedule))) > 20
    assert error(gradients(integrated(whole.denoiser, schedule))) > 20


def test_without_guidance_nothing_is_evaluated_without_the_class():
    def never(x_t, level):
        raise AssertionError("the scale is 1")

    schedule = SCHEDULES["cosine"]
    transition, x_0 = spans(schedule, (700.0, 200.0), (300.0, 100.0)), jnp.asarray(normal(2, 3))
    zero = lambda x_t, level: Prediction(jnp.zeros_like(x_t), jnp.zeros_like(x_t))
    assert np.all(l_mean_flow(schedule)(zero, never, x_0, keys(2), transition)["loss"] > 0)


@BOTH
@pytest.mark.parametrize("num_steps", [1, 2, 4])
def test_steps_by_the_exact_average_velocity_end_where_integration_ends(schedule, num_steps):
    x_T = jnp.asarray(normal(8, 2))
    fine = schedule.transitions(timesteps.log_snr(schedule, 400))
    exact = as_denoiser(integrated(MIXTURE.denoiser, schedule))
    draw = jax.jit(lambda x_T, steps: sample(mean_flow(), exact, keys(8), x_T=x_T, transitions=steps))
    few = draw(x_T, schedule.transitions(timesteps.trailing(schedule, num_steps)))
    theirs = sample(heun(), MIXTURE.denoiser, keys(8), x_T=x_T, transitions=fine)
    np.testing.assert_allclose(few, theirs, atol=2e-3)


def test_the_derivative_along_the_flow_is_that_of_finite_differences():
    transition = spans(SCHEDULES["straight"], (900.0, 300.0), (600.0, 500.0))
    y, v = jnp.asarray(normal(2, 3)), jnp.asarray(normal(2, 3, seed=1))
    average = lambda y, share, until: jnp.tanh(y * column(share, y) + jnp.sin(column(share * until, y)))
    share, end = share_of(transition.now), share_of(transition.next)
    until, h = jnp.asarray(transition.next.t), 1e-6
    change = (average(y + h * v, share + h, until) - average(y - h * v, share - h, until)) / (2 * h)
    expected = average(y, share, until) - (v - column(share - end, y) * change)
    np.testing.assert_allclose(mean_flow_error(average, v, y, transition), expected, atol=1e-6)


def test_no_gradient_comes_through_the_target():
    transition = spans(SCHEDULES["straight"], (900.0, 300.0))
    y = jnp.asarray(normal(1, 3))
    scaled = lambda a: lambda y, share, until: a * y * column(share, y)
    error = lambda a: mean_flow_error(scaled(a), jnp.ones((1, 3)), y, transition)
    expected = jnp.sum(2 * error(0.7) * y * column(share_of(transition.now), y))
    np.testing.assert_allclose(jax.grad(lambda a: jnp.sum(error(a) ** 2))(0.7), expected, rtol=1e-12)


def test_no_gradient_comes_through_the_weight():
    schedule = SCHEDULES["straight"]
    transition, x_0 = spans(schedule, (900.0, 300.0)), jnp.asarray(normal(1, 3))
    scaled = as_denoiser(lambda y, share, until: y)
    student = lambda a: lambda x_t, level: jax.tree.map(lambda leaf: a * leaf, scaled(x_t, level))
    of = lambda power: (
        lambda a: jnp.sum(l_mean_flow(schedule, power=power)(student(a), scaled, x_0, keys(1), transition)["loss"])
    )
    expected = jax.grad(of(0.0))(0.7) / (of(0.0)(0.7) + 1e-3)
    np.testing.assert_allclose(jax.grad(of(1.0))(0.7), expected, rtol=1e-12)


@BOTH
def test_the_level_of_a_share_of_noise_is_that_of_the_schedule_and_has_finite_derivatives(schedule):
    times = np.array([1.0, 1.5, 30.0, 500.25, 998.0, 999.0, 999.5, 1000.0])
    expected = schedule.level(times)
    level_of = jax.jit(on_straight_path(schedule))
    found = level_of(jnp.asarray(share_of(expected)))
    for name in ("t", "signal", "sigma"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-6, atol=1e-12)
    inside, h = jnp.asarray(share_of(schedule.level(np.array([1.5, 30.2, 500.25, 998.5, 1000.0])))), 1e-8
    slopes = jax.vmap(jax.jacfwd(level_of))(inside)
    for name in ("t", "signal", "sigma"):
        assert np.isfinite(getattr(slopes, name)).all()
        below = (getattr(level_of(inside), name) - getattr(level_of(inside - h), name)) / h
        checked = slice(None) if schedule.ends_in_noise else slice(-1)  # the last one is at the end of the table
        np.testing.assert_allclose(getattr(slopes, name)[checked], below[checked], rtol=1e-3, atol=1e-3)


def test_one_of_four_images_has_a_step_of_some_length():
    schedule = SCHEDULES["straight"]
    times = np.array([3.0, 900.5, 400.0, 1000.0, 700.0, 20.0, 30.0, 40.25])
    lessons = Spans(schedule)
    transition = jax.jit(lessons.transition)(times, 7)
    np.testing.assert_allclose(transition.now.t, [40.25, 900.5, 400.0, 1000.0, 1000.0, 20.0, 30.0, 40.25])
    np.testing.assert_allclose(transition.next.t, [3.0, 900.5, 400.0, 1000.0, 700.0, 20.0, 30.0, 40.25])
    for level in (transition.now, transition.next):
        expected = schedule.level(np.asarray(level.t))
        np.testing.assert_allclose(level.signal, expected.signal, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(level.sigma, expected.sigma, rtol=1e-9)
    assert int(lessons.stage(7)) == 0


def test_a_step_of_no_length_learns_the_velocity_and_the_loss_has_its_weight():
    schedule = SCHEDULES["cosine"]
    transition = jax.jit(Spans(schedule, every=1).transition)(np.array([700.0, 700.0]), 0)
    assert transition.next.t.tolist() == [700.0, 700.0]
    x_0 = jnp.asarray(normal(2, 3))
    zero = lambda x_t, level: Prediction(jnp.zeros_like(x_t), jnp.zeros_like(x_t))
    terms = l_mean_flow(schedule)(zero, zero, x_0, keys(2), transition)
    plain = l_mean_flow(schedule, power=0.0)(zero, zero, x_0, keys(2), transition)
    np.testing.assert_allclose(plain["loss"], 3 * plain["velocity_mse"])
    np.testing.assert_allclose(terms["velocity_mse"], plain["velocity_mse"])
    np.testing.assert_allclose(terms["loss"], plain["loss"] / (plain["loss"] + 1e-3))
    assert np.min(plain["loss"]) > 0.1
