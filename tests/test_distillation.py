"""Students of exact denoisers: a loss is zero at the exact map that it teaches, and nowhere else."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.analytic import ALL_TARGETS, GAUSSIAN, IMAGES, MIXTURE, each, keys, normal, pick

from ddpm_jax.diffusion import distillation, schedules, timesteps
from ddpm_jax.diffusion.analytic import Gaussian
from ddpm_jax.diffusion.gaussian import q_sample
from ddpm_jax.diffusion.guidance import classifier_free, side_by_side
from ddpm_jax.diffusion.prediction import Prediction, eps_from_x_0
from ddpm_jax.diffusion.samplers import consistency, ddim, ddim_step, heun, sample

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")

T = 48
SCHEDULES = {"cosine": schedules.cosine(T), "straight": schedules.straight(T)}
SLOW = pytest.mark.slow


def shortening(schedule, *, first=8, last=1, length=10, factor=2):
    """The curriculum from `first` to `last` steps on the trailing grid."""
    counts = [factor * first]
    while counts[-1] > last:
        counts.append(counts[-1] // factor)
    chains = tuple(schedule.transitions(timesteps.trailing(schedule, count)) for count in counts)
    return distillation.Shortening(chains, length, factor)


def noisy(data, transition, num):
    """Noisy images at the start of a transition."""
    x_0 = data.sample(jax.random.key(1), num)
    return x_0, q_sample(x_0, normal(*x_0.shape), transition.now)


def composed(teacher, curriculum):
    """The denoiser whose one step of DDIM is several of the teacher's, found by taking them, as the paper has it."""

    def denoise(x_t, level):
        transition = curriculum.transition(level.t, 0)
        within, next = curriculum.within(transition), transition.next
        x_s, now = x_t, level
        for end in [*(pick(within, i) for i in range(len(within.t))), next]:
            estimate = teacher(x_s, now)
            x_s, now = q_sample(estimate.x_0, estimate.eps, end), end
        column = lambda leaf: jnp.reshape(leaf, (-1,) + (1,) * (x_t.ndim - 1))
        ratio = column(next.sigma / level.sigma)
        x_0 = (x_s - ratio * x_t) / (column(next.signal) - ratio * column(level.signal))
        return Prediction(x_0, eps_from_x_0(x_0, x_t, level))

    return denoise


@pytest.mark.parametrize(
    ("data", "schedule", "factor"),
    [(MIXTURE, "straight", 2), (MIXTURE, "straight", 3), pytest.param(IMAGES, "cosine", 2, marks=SLOW)],
)
def test_the_loss_is_zero_at_the_composed_map_of_the_teacher_and_nowhere_else(data, schedule, factor):
    curriculum = shortening(SCHEDULES[schedule], last=8, factor=factor)
    times = np.array([48, 45, 30, 12, 7, 6, 3, 1] * 4)  # the first and the last step among them
    transition = curriculum.transition(times, 0)
    x_0 = data.sample(jax.random.key(0), len(times))
    loss = distillation.l_progressive(curriculum.within)
    exact = composed(data.denoiser, curriculum)
    of = lambda student: jax.jit(lambda x_0: loss(student, data.denoiser, x_0, keys(len(times)), transition))(x_0)
    terms = of(exact)
    assert np.max(np.abs(terms["loss"])) < 1e-18

    def other(x_t, level):
        return exact(x_t, level)._replace(x_0=exact(x_t, level).x_0 + 0.01)

    terms = of(other)
    np.testing.assert_allclose(terms["x_0_mse"], 1e-4, rtol=1e-6)
    np.testing.assert_allclose(terms["loss"], 1e-4 / transition.now.sigma**2, rtol=1e-6)


def test_the_pseudo_huber_distance_has_the_same_minimum_and_grows_as_the_error():
    curriculum = shortening(SCHEDULES["straight"], last=8)
    transition = curriculum.transition(np.array([48, 30, 12, 3]), 0)
    x_0, exact = MIXTURE.sample(jax.random.key(0), 4), composed(MIXTURE.denoiser, curriculum)
    loss = distillation.l_progressive(curriculum.within, huber=distillation.HUBER)

    def terms(shift):
        other = lambda x_t, level: exact(x_t, level)._replace(x_0=exact(x_t, level).x_0 + shift)
        return jax.jit(lambda x_0: loss(other, MIXTURE.denoiser, x_0, keys(4), transition))(x_0)

    assert np.max(np.abs(terms(0.0)["loss"])) < 1e-14
    shift = terms(0.01)
    np.testing.assert_allclose(shift["x_0_mse"], 1e-4, rtol=1e-6)
    error = 0.01 / transition.now.sigma
    np.testing.assert_allclose(shift["loss"], np.sqrt(error**2 + 0.00054**2) - 0.00054, rtol=1e-6)
    gradient = jax.grad(lambda shift: jnp.sum(terms(shift)["loss"]))(0.0)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-6)  # it is smooth where the error is zero


def test_the_minimum_with_a_guided_teacher_is_the_guided_map_of_two_steps_without_guidance_in_the_student():
    """One class of the mixture is guided away from the whole, both exact."""
    curriculum = shortening(SCHEDULES["straight"])
    transition = curriculum.transition(np.array([48, 36, 30, 18]), 0)
    one, loss = MIXTURE.components[0], distillation.l_progressive(curriculum.within)
    guided = classifier_free(side_by_side(one.denoiser, MIXTURE.denoiser), 2.5)
    x_0 = one.sample(jax.random.key(0), 4)
    of = lambda student: jax.jit(lambda x_0: loss(student, guided, x_0, keys(4), transition))(x_0)
    assert np.max(of(composed(guided, curriculum))["loss"]) < 1e-18
    assert np.min(of(composed(one.denoiser, curriculum))["loss"]) > 1e-4
    x_T, chain = jnp.asarray(normal(8, 2)), curriculum.chains
    student = lambda x_t, level: composed(guided, curriculum)(x_t, level._replace(t=jnp.full(len(x_t), level.t)))
    few = sample(ddim(), student, keys(8), x_T=x_T, transitions=chain[1])
    np.testing.assert_allclose(few, sample(ddim(), guided, keys(8), x_T=x_T, transitions=chain[0]), atol=1e-9)


def test_the_teacher_itself_does_not_have_zero_loss():
    """So the loss is not zero for whatever is close to the data."""
    curriculum = shortening(SCHEDULES["straight"])
    transition = curriculum.transition(np.array([48, 30, 18, 12]), 0)
    x_0 = MIXTURE.sample(jax.random.key(0), 4)
    loss = distillation.l_progressive(curriculum.within)
    terms = jax.jit(lambda x_0: loss(MIXTURE.denoiser, MIXTURE.denoiser, x_0, keys(4), transition))(x_0)
    assert np.min(terms["loss"]) > 1e-6


@each("target", {name: target for name, target in ALL_TARGETS.items() if name != "eps"})
def test_one_step_of_the_student_is_two_of_the_teacher_whatever_its_network_predicts(target):
    """A network that outputs the target of the distilled x_0 takes the same step, from pure noise too."""
    curriculum = shortening(SCHEDULES["straight"])
    transition = curriculum.transition(np.array([48, 48, 24, 6]), 0)
    _, x_t = noisy(MIXTURE, transition, 4)
    within = curriculum.within(transition)
    middle = pick(within, 0)
    x_0 = distillation.several_steps(MIXTURE.denoiser, x_t, transition, within)
    output = target.of(x_0, eps_from_x_0(x_0, x_t, transition.now), transition.now)
    student = lambda x_t, level: target.prediction(output, x_t, level)
    one = ddim_step(student, keys(4), x_t=x_t, transition=transition, eta=0.0)
    first = MIXTURE.denoiser(x_t, transition.now)
    second = MIXTURE.denoiser(q_sample(first.x_0, first.eps, middle), middle)
    np.testing.assert_allclose(one, q_sample(second.x_0, second.eps, transition.next), atol=1e-12)


@pytest.mark.parametrize(
    ("schedule", "factor"), [("straight", 2), ("straight", 6), pytest.param("cosine", 3, marks=SLOW)]
)
def test_a_chain_of_the_exact_student_is_that_of_its_teacher_with_so_many_times_the_steps(schedule, factor):
    curriculum = shortening(SCHEDULES[schedule], last=8, factor=factor)
    teacher, student = curriculum.chains[:2]
    x_T = jnp.asarray(normal(16, 2))
    exact = composed(MIXTURE.denoiser, curriculum)
    denoise = lambda x_t, level: exact(x_t, level._replace(t=jnp.full(len(x_t), level.t)))
    ours = sample(ddim(), denoise, keys(16), x_T=x_T, transitions=student)
    theirs = sample(ddim(), MIXTURE.denoiser, keys(16), x_T=x_T, transitions=teacher)
    np.testing.assert_allclose(ours, theirs, atol=1e-10)


def test_each_stage_has_half_the_steps_of_the_one_before_and_the_last_goes_on():
    schedule = SCHEDULES["cosine"]
    curriculum = shortening(schedule, first=8, last=2, length=10)
    assert [int(curriculum.stage(step)) for step in (0, 9, 10, 19, 20, 29, 30, 1000)] == [0, 0, 1, 1, 2, 2, 2, 2]
    times = np.arange(1, T + 1)
    for step, count in ((0, 8), (10, 4), (20, 2), (99, 2)):
        transition = curriculum.transition(times, step)
        chain = schedule.transitions(timesteps.trailing(schedule, count))
        place = [max(i for i in range(count) if chain.now.t[i] >= t) for t in times]
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12), transition, pick(chain, np.array(place)))
        halves = schedule.transitions(timesteps.trailing(schedule, 2 * count))
        middle = pick(curriculum.within(transition), 0)
        np.testing.assert_allclose(middle.t, halves.next.t[::2][place])
        np.testing.assert_allclose(middle.signal, halves.next.signal[::2][place])


def test_a_teacher_of_several_steps_divides_each_step_of_its_student_evenly():
    curriculum = shortening(SCHEDULES["straight"], first=4, last=1, factor=4)
    assert [chain.num_steps for chain in curriculum.chains] == [16, 4, 1]
    for step, expected in ((0, [[45, 42, 39], [9, 6, 3]]), (10, [[36, 24, 12], [36, 24, 12]])):
        within = curriculum.within(curriculum.transition(np.array([48, 12]), step))
        np.testing.assert_allclose(within.t.T, expected)


def test_times_that_are_uniform_are_uniform_over_the_steps():
    transition = shortening(SCHEDULES["cosine"]).transition(np.arange(1, T + 1), 0)
    assert np.unique(transition.now.t, return_counts=True)[1].tolist() == [T // 8] * 8


def test_chains_that_do_not_halve_are_refused():
    schedule = schedules.linear(50)
    chains = tuple(schedule.transitions(timesteps.uniform(schedule, count)) for count in (8, 4))
    with pytest.raises(ValueError, match="must be one in 2 of its teacher's"):
        distillation.Shortening(chains, 10)
    halves = tuple(schedule.transitions(timesteps.trailing(schedule, count)) for count in (10, 5))
    with pytest.raises(ValueError, match="must be one in 4 of its teacher's"):
        distillation.Shortening(halves, 10, 4)


def test_no_gradient_reaches_the_teacher():
    curriculum = shortening(SCHEDULES["straight"])
    transition = curriculum.transition(np.array([48, 12]), 0)
    x_0 = GAUSSIAN.sample(jax.random.key(0), 2)
    loss = distillation.l_progressive(curriculum.within)

    def scaled(scale):
        return lambda x_t, level: Prediction(scale * x_t, eps_from_x_0(scale * x_t, x_t, level))

    total = lambda student, teacher: jnp.sum(loss(scaled(student), scaled(teacher), x_0, keys(2), transition)["loss"])
    student, teacher = jax.jit(jax.grad(total, (0, 1)))(0.3, 0.5)
    assert student != 0
    assert teacher == 0


FLOWS = {"cosine": schedules.cosine(1000), "straight": schedules.straight(1000)}


def flow(data, x, level, schedule, *, end=None, num_steps=400):
    """The ODE's trajectory from x at a time to its end, by Heun's method: at the time `end`, or at the clean image."""
    times = np.unique(np.concatenate([timesteps.log_snr(schedule, num_steps), [float(level), *([end] if end else [])]]))
    times = times[(times <= level) & (times >= (end or 0))][::-1]
    return sample(heun(), data.denoiser, keys(len(x)), x_T=x, transitions=schedule.transitions(times))


def test_the_loss_of_consistency_is_zero_at_the_exact_flow_map_and_nowhere_else():
    """Of two images on one trajectory, found by integration in hundreds of steps, the flow map has one estimate."""
    schedule = FLOWS["cosine"]
    t, r = 700.0, 400.0
    transition = jax.tree.map(lambda leaf: jnp.full(6, leaf), schedule.between(t, r))
    x_t = jnp.asarray(normal(6, 2))
    x_r = flow(MIXTURE, x_t, t, schedule, end=r)
    at_t, at_r = flow(MIXTURE, x_t, t, schedule), flow(MIXTURE, x_r, r, schedule)
    terms = distillation.consistency_error(at_t, at_r, transition, huber=0.01)
    assert np.max(np.abs(at_t - x_r)) > 0.1
    assert np.max(terms["x_0_mse"]) < 1e-8
    means = [MIXTURE.denoiser(x, level).x_0 for x, level in ((x_t, transition.now), (x_r, transition.next))]
    assert np.min(distillation.consistency_error(*means, transition, huber=0.01)["x_0_mse"]) > 1e-6


def exact_flow(x_t, level):
    """The flow map of one Gaussian pixel of mean 0.3 and variance 0.25, which scales all deviations alike."""
    signal, sigma = (jnp.reshape(leaf, (-1, 1)) for leaf in (level.signal, level.sigma))
    x_0 = 0.3 + 0.5 / jnp.sqrt(0.25 * signal**2 + sigma**2) * (x_t - 0.3 * signal)
    return Prediction(x_0, x_0)


def test_the_flow_map_of_a_gaussian_is_that_of_integration():
    data, schedule = Gaussian([0.3], [[0.25]]), FLOWS["cosine"]
    x_t = jnp.asarray(normal(5, 1))
    level = jax.tree.map(lambda leaf: jnp.full(5, leaf), schedule.level(600.0))
    np.testing.assert_allclose(exact_flow(x_t, level).x_0, flow(data, x_t, 600.0, schedule), atol=1e-4)


def test_the_gradient_of_consistency_training_at_the_flow_map_falls_with_the_gap():
    """One image and one noise for both levels are not on one trajectory; the mean of the gradient over them is."""
    schedule, num = FLOWS["straight"], 48
    points, weights = np.polynomial.hermite_e.hermegauss(num)
    z, eps = (np.ravel(axis)[:, None] for axis in np.meshgrid(points, points))
    weight = np.outer(weights, weights).ravel() / np.sum(weights) ** 2

    def gradient(gap):
        transition = jax.tree.map(lambda leaf: jnp.full(len(z), leaf), schedule.between(600.0, 600.0 - gap))
        at = lambda level: exact_flow(q_sample(0.3 + 0.5 * z, eps, level), level).x_0
        x_t = q_sample(0.3 + 0.5 * z, eps, transition.now)

        def loss(slope):
            terms = distillation.consistency_error(
                at(transition.now) + slope * x_t, at(transition.next), transition, huber=3.0
            )
            return jnp.sum(weight * terms["loss"])

        return float(jax.jit(jax.grad(loss))(0.0))

    gaps = np.array([16.0, 8.0, 4.0, 2.0])
    found = np.array([gradient(gap) for gap in gaps])
    np.testing.assert_allclose(found[1:] / found[:-1], 0.5, atol=0.05)


@pytest.mark.parametrize("schedule", ["straight", pytest.param("cosine", marks=SLOW)])
def test_the_gap_is_that_of_the_paper_and_halves_from_stage_to_stage(schedule):
    schedule = FLOWS[schedule]
    learned = jax.jit(distillation.Narrowing(schedule, 10).transition)
    times = np.array([3.0, 100.5, 400.0, 800.25])
    u = lambda level: np.asarray(level.sigma / level.signal)
    for step, stage in ((0, 1), (9, 1), (10, 2), (39, 4), (75, 8)):
        transition = learned(times, step)
        begin = u(schedule.level(times))
        share = (1 + 8 / (1 + np.exp(begin))) / 2**stage
        expected = begin * np.maximum(1 - share, 0)
        expected = np.where(expected < u(schedule.level(1.0)), 0, expected)
        np.testing.assert_allclose(u(transition.now), begin, rtol=1e-6)
        np.testing.assert_allclose(u(transition.next), expected, rtol=1e-6)
        np.testing.assert_allclose(u(schedule.level(np.asarray(transition.next.t))), expected, rtol=1e-5)


def test_pure_noise_has_a_finite_gap_and_no_weight():
    lessons = distillation.Narrowing(FLOWS["straight"], 10)
    transition = jax.jit(lessons.transition)(np.array([1000, 1]), 25)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(transition.next))
    assert np.isfinite(transition.beta).all()
    assert transition.next.sigma[1] == 0
    terms = distillation.l_consistency()(exact_flow, exact_flow, jnp.zeros((2, 1)), keys(2), transition)
    assert terms["loss"][0] == 0
    assert np.isfinite(terms["loss"][1])


def test_at_the_clean_image_the_target_is_the_image_and_no_gradient_reaches_it():
    """So with the widest gap, consistency training is the training of a denoiser."""
    learned = jax.jit(distillation.Narrowing(FLOWS["cosine"], 10).transition)
    transition = learned(np.array([30.0, 60.0]), 0)
    assert np.all(transition.next.sigma == 0)
    x_0, loss = jnp.asarray(normal(2, 3)), distillation.l_consistency()
    nothing = lambda x_t, level: Prediction(jnp.nan * x_t, x_t)
    zero = lambda x_t, level: Prediction(0 * x_t, x_t)
    terms, c = loss(zero, nothing, x_0, keys(2), transition), 0.00054 * 3**0.5
    np.testing.assert_allclose(terms["x_0_mse"], np.mean(x_0**2, axis=1))
    distance = np.sqrt(np.sum(x_0**2, axis=1) + c**2) - c
    np.testing.assert_allclose(terms["loss"], distance * transition.now.signal / transition.now.sigma)
    later = learned(np.array([700.0, 500.0]), 30)
    scaled = lambda scale: lambda x_t, level: Prediction(scale * x_t, x_t)
    total = lambda own, other: jnp.sum(loss(scaled(own), scaled(other), x_0, keys(2), later)["loss"])
    own, other = jax.jit(jax.grad(total, (0, 1)))(0.3, 0.5)
    assert own != 0
    assert other == 0


@pytest.mark.parametrize("num_steps", [1, 3])
def test_consistency_sampling_with_the_flow_map_has_the_distribution_of_the_data(num_steps):
    schedule, num = FLOWS["straight"], 20_000
    steps = schedule.transitions(timesteps.trailing(schedule, num_steps))
    draw = jax.jit(lambda x_T, keys: sample(consistency(), exact_flow, keys, x_T=x_T, transitions=steps))
    x = draw(jnp.asarray(normal(num, 1)), keys(num))
    assert abs(float(jnp.mean(x)) - 0.3) < 4 * 0.5 / num**0.5
    assert abs(float(jnp.std(x)) - 0.5) < 4 * 0.5 / (2 * num) ** 0.5
