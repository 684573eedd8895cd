"""Multistep solvers step by step beside diffusers' schedulers, where it is installed."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.analytic import MIXTURE, keys, normal

from ddpm_jax.diffusion.samplers import deis, dpm_solver_pp_2m, dpm_solver_pp_3m, sample, unipc
from ddpm_jax.diffusion.schedules import linear

diffusers = pytest.importorskip("diffusers", reason="pip install -r requirements/diffusers.txt")
torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.usefixtures("x64"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # theirs
]

SCHEDULE = linear(1000)
ZERO = {"final_sigmas_type": "zero"}
SAME = {
    "2M": ("DPMSolverMultistepScheduler", {"solver_order": 2, **ZERO}, dpm_solver_pp_2m()),
    "UniPC-2": ("UniPCMultistepScheduler", {"solver_order": 2, **ZERO}, unipc(2)),
    "UniPC-3": ("UniPCMultistepScheduler", {"solver_order": 3, **ZERO}, unipc(3)),
    "DEIS-2": ("DEISMultistepScheduler", {"solver_order": 2}, deis(2)),
    "DEIS-3": ("DEISMultistepScheduler", {"solver_order": 3}, deis(3)),
}


def both(name, options, sampler, num_steps):
    """The times, and the images of every step by diffusers in float32 and by us."""
    scheduler = getattr(diffusers, name)(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", **options)
    scheduler.set_timesteps(num_steps)
    x_T = normal(5, 2)
    theirs = [np.asarray(x_T, np.float32)]
    for t in scheduler.timesteps:
        eps = MIXTURE.denoiser(jnp.asarray(theirs[-1], float), SCHEDULE.level(float(t) + 1)).eps
        x = scheduler.step(torch.tensor(np.asarray(eps, np.float32)), t, torch.tensor(theirs[-1])).prev_sample
        theirs.append(x.numpy())
    times = np.append(scheduler.timesteps.numpy() + 1.0, 0)
    chain = jax.jit(partial(sample, sampler, MIXTURE.denoiser, trajectory=True))
    return times, np.stack(theirs), np.asarray(chain(keys(5), x_T=x_T, transitions=SCHEDULE.transitions(times)))


@pytest.mark.parametrize("num_steps", [6, 20])
@pytest.mark.parametrize("name", SAME)
def test_they_agree_in_every_step(name, num_steps):
    """To 1e-5; DEIS, which ends at the sigma of t = 1, until two steps before the end."""
    _, theirs, ours = both(*SAME[name], num_steps)
    count = len(ours) - 2 if "DEIS" in name else len(ours)
    np.testing.assert_allclose(theirs[:count], ours[:count], atol=2e-5 if "DEIS" in name else 1e-5)


def test_their_third_order_has_half_of_the_second_derivative():
    """The integral has `2 phi_3` where Lu et al.'s code, and diffusers, have `phi_3`, so theirs is of second order."""
    times, theirs, ours = both("DPMSolverMultistepScheduler", {"solver_order": 3, **ZERO}, dpm_solver_pp_3m(), 6)
    levels = [SCHEDULE.level(t) for t in times[:4]]
    lam = np.array([np.log(level.signal / level.sigma) for level in levels])
    x_0 = [np.asarray(MIXTURE.denoiser(jnp.asarray(x), level).x_0) for x, level in zip(ours, levels, strict=False)]
    h_1, h_0, h = np.diff(lam)
    curvature = ((x_0[2] - x_0[1]) / h_0 - (x_0[1] - x_0[0]) / h_1) / (h_0 + h_1)
    phi_3 = (np.exp(-h) - 1 + h) / h**2 - 0.5
    np.testing.assert_allclose(theirs[:3], ours[:3], atol=1e-5)
    np.testing.assert_allclose(theirs[3] - ours[3], levels[3].signal * phi_3 * h**2 * curvature, atol=2e-6)
    assert np.abs(theirs[3] - ours[3]).max() > 1e-4
