"""RePaint on a Gaussian, whose unknown part given the known one is known exactly."""

import jax
import numpy as np
import pytest
from support.agreement import different
from support.analytic import ALL_SAMPLERS, keys, normal, pick

from ddpm_jax.diffusion import timesteps
from ddpm_jax.diffusion.analytic import Gaussian
from ddpm_jax.diffusion.samplers import (
    Sampler,
    SamplerState,
    StepInfo,
    Variance,
    ancestral,
    ddim,
    dpm_solver_pp_2m,
    repaint,
    sample,
)
from ddpm_jax.diffusion.schedules import linear

pytestmark = pytest.mark.usefixtures("x64")

SCHEDULE = linear(200, beta_end=0.06)
PAIR = Gaussian([0.2, -0.1], [[0.5, 0.35], [0.35, 0.4]])
KNOWN, VALUE = np.array([1.0, 0.0]), np.array([-0.7, 99.0])
MEAN = -0.1 + 0.35 / 0.5 * (VALUE[0] - 0.2)
STD = np.sqrt(0.4 - 0.35**2 / 0.5)


def filled(predictor, num_resamples, times, num=2048):
    """Draws `[num, 2]` whose first component is given."""
    sampler = repaint(predictor, VALUE, KNOWN, num_resamples=num_resamples)
    draw = jax.jit(
        lambda x_T: sample(sampler, PAIR.denoiser, keys(num), x_T=x_T, transitions=SCHEDULE.transitions(times))
    )
    return np.asarray(draw(normal(num, 2)))


@pytest.mark.parametrize("name", ["ancestral", "dpm_solver_pp_2m"])
def test_what_is_drawn_follows_what_is_known(name):
    """The conditional Gaussian's mean and deviation, which replacing alone misses by far."""
    predictor, times = {
        "ancestral": (ancestral(Variance.SMALL), None),
        "dpm_solver_pp_2m": (dpm_solver_pp_2m(), timesteps.log_snr(SCHEDULE, 60)),
    }[name]
    drawn, replaced = filled(predictor, 20, times)[:, 1], filled(predictor, 1, times)[:, 1]
    assert abs(drawn.mean() - MEAN) < 0.1 * STD
    assert abs(drawn.std() - STD) < 0.1 * STD
    assert abs(replaced.mean() - MEAN) > 0.3 * STD


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "predictor"),
    [
        ("ancestral, the large variance", ancestral(Variance.LARGE)),
        ("ancestral, the small variance", ancestral(Variance.SMALL)),
        ("DDIM", ddim()),
    ],
)
def test_what_many_repetitions_converge_to_depends_on_the_variance(row, predictor):
    """The mean is exact for all; the deviation for the large variance alone."""
    drawn = filled(predictor, 50, None)[:, 1]
    assert abs(drawn.mean() - MEAN) < 0.06 * STD
    different(row, drawn.std() / STD)


@pytest.mark.parametrize("name", ALL_SAMPLERS)
def test_the_known_part_is_kept_exactly(name):
    drawn = filled(ALL_SAMPLERS[name], 2, [200, 100, 20, 0], num=8)
    np.testing.assert_array_equal(drawn[:, 0], VALUE[0])
    assert np.all(np.abs(drawn[:, 1]) < 5)
    assert np.std(drawn[:, 1]) > 0.05


@pytest.mark.parametrize("num_resamples", [1, 4])
def test_every_move_is_taken_so_many_times_and_the_last_once(num_resamples):
    """Moves to t = 60, t = 1 and t = 0, counted where they are taken."""
    taken = []

    def step(denoise, keys, state, transition):
        taken.append(float(transition.next.t))
        return SamplerState(state.x), StepInfo(state.x)

    sampler = repaint(Sampler(SamplerState, step), VALUE, KNOWN, num_resamples=num_resamples)
    with jax.disable_jit():
        sample(sampler, PAIR.denoiser, keys(3), x_T=normal(3, 2), transitions=SCHEDULE.transitions([200, 60, 1, 0]))
    assert taken == [60] * num_resamples + [1] * num_resamples + [0]


def test_the_info_is_of_the_images_that_were_given():
    """The estimate of the first repetition, which starts from the given x, and the evaluations of all of them."""
    transition = jax.tree.map(lambda leaf: leaf[0], SCHEDULE.transitions([200, 60, 0]))
    for predictor in (ancestral(Variance.SMALL), dpm_solver_pp_2m()):
        infos = []
        for num_resamples in (1, 4):
            sampler = repaint(predictor, VALUE, KNOWN, num_resamples=num_resamples)
            infos.append(sampler.step(PAIR.denoiser, keys(3), sampler.init(normal(3, 2)), transition)[1])
        np.testing.assert_allclose(infos[1].x_0, infos[0].x_0, rtol=1e-12)
        assert infos[1].evaluations == 4 * infos[0].evaluations


def test_a_move_is_taken_again_from_where_the_forward_process_leads():
    """For a sampler that stays: `x_t = sqrt(1 - beta) x_s + sqrt(beta) z`, z from the first key of the pair 1."""
    stays = Sampler(SamplerState, lambda denoise, keys, state, transition: (state, StepInfo(state.x)))
    sampler, move = repaint(stays, VALUE, 0 * KNOWN, num_resamples=2), pick(SCHEDULE.transitions([200, 60]), 0)
    x, (image_key,) = normal(1, 2), keys(1)
    moved = sampler.step(PAIR.denoiser, keys(1), sampler.init(x), move)[0].x
    z = jax.random.normal(jax.random.split(jax.random.fold_in(image_key, 1))[0], (2,))
    np.testing.assert_allclose(moved[0], np.sqrt(1 - move.beta) * x[0] + np.sqrt(move.beta) * z, rtol=1e-9)


def test_with_nothing_known_once_is_the_sampler_with_other_noise():
    """And every image has its own noise, whatever its company."""
    sampler = repaint(ancestral(Variance.SMALL), VALUE, 0 * KNOWN, num_resamples=1)
    draw = lambda part: sample(
        sampler, PAIR.denoiser, keys(64)[part], x_T=normal(64, 2)[part], transitions=SCHEDULE.transitions()
    )
    x = draw(slice(None))
    np.testing.assert_allclose(draw(slice(5, 9)), x[5:9], rtol=1e-12)
    assert np.all(np.abs(x.mean(axis=0) - PAIR.mean) < 4 * np.sqrt(np.diag(PAIR.covariance) / 64))
