"""Students of exact denoisers: the loss is zero at the composed map of the teacher and nowhere else."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.analytic import ALL_TARGETS, GAUSSIAN, IMAGES, MIXTURE, each, keys, normal, pick

from ddpm_jax.diffusion import distillation, schedules, timesteps
from ddpm_jax.diffusion.gaussian import q_sample
from ddpm_jax.diffusion.prediction import Prediction, eps_from_x_0
from ddpm_jax.diffusion.samplers import ddim, ddim_step, sample

pytestmark = pytest.mark.usefixtures("x64")

T = 48
SCHEDULES = {"cosine": schedules.cosine(T), "straight": schedules.straight(T)}
DATA = {"mixture": MIXTURE, "images": IMAGES}


def halving(schedule, *, first=8, last=1, length=10):
    """The curriculum from `first` to `last` steps on the trailing grid."""
    counts = [2 * first]
    while counts[-1] > last:
        counts.append(counts[-1] // 2)
    return distillation.Halving(
        tuple(schedule.transitions(timesteps.trailing(schedule, count)) for count in counts), length
    )


def noisy(data, transition, num):
    """Noisy images at the start of a transition."""
    x_0 = data.sample(jax.random.key(1), num)
    return x_0, q_sample(x_0, normal(*x_0.shape), transition.now)


def composed(teacher, curriculum):
    """The denoiser whose one step of DDIM is two steps of the teacher's, found by taking them, as the paper has it."""

    def denoise(x_t, level):
        transition = curriculum.transition(level.t, 0)
        middle, next = curriculum.middle(transition), transition.next
        first = teacher(x_t, level)
        x_m = q_sample(first.x_0, first.eps, middle)
        second = teacher(x_m, middle)
        x_s = q_sample(second.x_0, second.eps, next)
        column = lambda leaf: jnp.reshape(leaf, (-1,) + (1,) * (x_t.ndim - 1))
        ratio = column(next.sigma / level.sigma)
        x_0 = (x_s - ratio * x_t) / (column(next.signal) - ratio * column(level.signal))
        return Prediction(x_0, eps_from_x_0(x_0, x_t, level))

    return denoise


@each("schedule", SCHEDULES)
@each("data", DATA)
def test_the_loss_is_zero_at_the_composed_map_of_the_teacher_and_nowhere_else(schedule, data):
    curriculum = halving(schedule)
    times = np.array([48, 45, 30, 12, 7, 6, 3, 1] * 4)  # the first and the last step among them
    transition = curriculum.transition(times, 0)
    x_0 = data.sample(jax.random.key(0), len(times))
    loss = distillation.l_progressive(curriculum.middle)
    exact = composed(data.denoiser, curriculum)
    terms = loss(exact, data.denoiser, x_0, keys(len(times)), transition)
    assert np.max(np.abs(terms["loss"])) < 1e-18

    def other(x_t, level):
        return exact(x_t, level)._replace(x_0=exact(x_t, level).x_0 + 0.01)

    terms = loss(other, data.denoiser, x_0, keys(len(times)), transition)
    np.testing.assert_allclose(terms["x_0_mse"], 1e-4, rtol=1e-6)
    np.testing.assert_allclose(terms["loss"], 1e-4 / transition.now.sigma**2, rtol=1e-6)


def test_the_teacher_itself_does_not_have_zero_loss():
    """So the loss is not zero for whatever is close to the data."""
    curriculum = halving(SCHEDULES["straight"])
    transition = curriculum.transition(np.array([48, 30, 18, 12]), 0)
    x_0 = MIXTURE.sample(jax.random.key(0), 4)
    loss = distillation.l_progressive(curriculum.middle)
    terms = loss(MIXTURE.denoiser, MIXTURE.denoiser, x_0, keys(4), transition)
    assert np.min(terms["loss"]) > 1e-6


@each("target", {name: target for name, target in ALL_TARGETS.items() if name != "eps"})
def test_one_step_of_the_student_is_two_of_the_teacher_whatever_its_network_predicts(target):
    """A network that outputs the target of the distilled x_0 takes the same step, from pure noise too."""
    curriculum = halving(SCHEDULES["straight"])
    transition = curriculum.transition(np.array([48, 48, 24, 6]), 0)
    _, x_t = noisy(MIXTURE, transition, 4)
    middle = curriculum.middle(transition)
    x_0 = distillation.two_steps(MIXTURE.denoiser, x_t, transition, middle)
    output = target.of(x_0, eps_from_x_0(x_0, x_t, transition.now), transition.now)
    student = lambda x_t, level: target.prediction(output, x_t, level)
    one = ddim_step(student, keys(4), x_t=x_t, transition=transition, eta=0.0)
    first = MIXTURE.denoiser(x_t, transition.now)
    second = MIXTURE.denoiser(q_sample(first.x_0, first.eps, middle), middle)
    np.testing.assert_allclose(one, q_sample(second.x_0, second.eps, transition.next), atol=1e-12)


@each("schedule", SCHEDULES)
def test_a_chain_of_the_exact_student_is_that_of_its_teacher_with_twice_the_steps(schedule):
    curriculum = halving(schedule)
    teacher, student = curriculum.chains[:2]
    x_T = jnp.asarray(normal(16, 2))
    exact = composed(MIXTURE.denoiser, curriculum)
    denoise = lambda x_t, level: exact(x_t, level._replace(t=jnp.full(len(x_t), level.t)))
    ours = sample(ddim(), denoise, keys(16), x_T=x_T, transitions=student)
    theirs = sample(ddim(), MIXTURE.denoiser, keys(16), x_T=x_T, transitions=teacher)
    np.testing.assert_allclose(ours, theirs, atol=1e-10)


def test_each_stage_has_half_the_steps_of_the_one_before_and_the_last_goes_on():
    schedule = SCHEDULES["cosine"]
    curriculum = halving(schedule, first=8, last=2, length=10)
    assert [int(curriculum.stage(step)) for step in (0, 9, 10, 19, 20, 29, 30, 1000)] == [0, 0, 1, 1, 2, 2, 2, 2]
    times = np.arange(1, T + 1)
    for step, count in ((0, 8), (10, 4), (20, 2), (99, 2)):
        transition = curriculum.transition(times, step)
        chain = schedule.transitions(timesteps.trailing(schedule, count))
        place = [max(i for i in range(count) if chain.now.t[i] >= t) for t in times]
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12), transition, pick(chain, np.array(place)))
        halves = schedule.transitions(timesteps.trailing(schedule, 2 * count))
        middle = curriculum.middle(transition)
        np.testing.assert_allclose(middle.t, halves.next.t[::2][place])
        np.testing.assert_allclose(middle.signal, halves.next.signal[::2][place])


def test_times_that_are_uniform_are_uniform_over_the_steps():
    transition = halving(SCHEDULES["cosine"]).transition(np.arange(1, T + 1), 0)
    assert np.unique(transition.now.t, return_counts=True)[1].tolist() == [T // 8] * 8


def test_chains_that_do_not_halve_are_refused():
    schedule = schedules.linear(50)
    chains = tuple(schedule.transitions(timesteps.uniform(schedule, count)) for count in (8, 4))
    with pytest.raises(ValueError, match="must be every second one of its teacher's"):
        distillation.Halving(chains, 10)


def test_no_gradient_reaches_the_teacher():
    curriculum = halving(SCHEDULES["straight"])
    transition = curriculum.transition(np.array([48, 12]), 0)
    x_0 = GAUSSIAN.sample(jax.random.key(0), 2)
    loss = distillation.l_progressive(curriculum.middle)

    def scaled(scale):
        return lambda x_t, level: Prediction(scale * x_t, eps_from_x_0(scale * x_t, x_t, level))

    total = lambda student, teacher: jnp.sum(loss(scaled(student), scaled(teacher), x_0, keys(2), transition)["loss"])
    assert jax.grad(total, 0)(0.3, 0.5) != 0
    assert jax.grad(total, 1)(0.3, 0.5) == 0
