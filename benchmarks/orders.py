"""Prints the order with which each sampler converges on Gaussian data, whose flow and moments are known.

  python benchmarks/orders.py

Deterministic samplers take 20 images from T to t = 1 and from T to the clean image, in evenly spaced log-SNR; their
first steps, and their last ones to the clean image, have the lower orders of the papers. The error is the root mean
square distance to the exact flow. Stochastic forms take a million numbers to the clean image; their error is that of
the standard deviation, which a million numbers tell to 0.001. The slope is that of a line through the logarithms.
"""

from functools import partial

import _root  # noqa: F401
import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.commands import cli
from ddpm_jax.diffusion import timesteps
from ddpm_jax.diffusion.analytic import CLEAN, Gaussian
from ddpm_jax.diffusion.arrays import image_keys
from ddpm_jax.diffusion.samplers import (
    Sampler,
    Variance,
    adams_bashforth,
    ancestral,
    ddim,
    deis,
    dpm_solver_pp_2m,
    dpm_solver_pp_3m,
    euler_maruyama,
    heun,
    sample,
    unipc,
)
from ddpm_jax.diffusion.schedules import NoiseLevel, linear

SCHEDULE = linear(1000)
DATA = Gaussian(np.array([0.3, -0.4, 0.1]), np.array([[0.5, 0.2, -0.1], [0.2, 0.3, 0.1], [-0.1, 0.1, 0.4]]))
ONE = Gaussian(np.array([0.2]), np.array([[0.25]]))
FEW, MANY = (8, 16, 32), (60, 120, 240)
DETERMINISTIC = {
    "ddim": ddim(),
    "heun": heun(),
    "dpm_solver_pp_2m": dpm_solver_pp_2m(),
    "dpm_solver_pp_3m": dpm_solver_pp_3m(),
    "deis": deis(),
    "adams_bashforth": adams_bashforth(),
    "unipc": unipc(),
}
STOCHASTIC = {
    "ancestral, small": ancestral(Variance.SMALL),
    "ancestral, large": ancestral(Variance.LARGE),
    "ddim, eta 0.5": ddim(0.5),
    "euler_maruyama": euler_maruyama(),
    "dpm_solver_pp_2m, eta 1": dpm_solver_pp_2m(1.0),
    "dpm_solver_pp_3m, eta 1": dpm_solver_pp_3m(1.0),
}


def exact_flow(x: np.ndarray, end: NoiseLevel) -> np.ndarray:
    """Where the flow of the data takes x `[B, D]` from t = T to a level."""
    eigenvalues, basis = np.linalg.eigh(DATA.covariance)
    start = SCHEDULE.level(SCHEDULE.num_timesteps)
    begin, finish = (np.sqrt(level.signal**2 * eigenvalues + level.sigma**2) for level in (start, end))
    return np.asarray(end.signal * DATA.mean + ((x - start.signal * DATA.mean) @ basis * finish / begin) @ basis.T)


def flow_error(sampler: Sampler, num_steps: int, end: NoiseLevel) -> float:
    """The root mean square distance to the exact flow at a level, t = 1 or the clean image."""
    clean = end.t == 0
    times = timesteps.log_snr(SCHEDULE, num_steps if clean else num_steps + 1)
    transitions = SCHEDULE.transitions(times if clean else times[:-1])
    x = np.random.default_rng(0).standard_normal((20, 3)) / 2
    draw = jax.jit(partial(sample, sampler, DATA.denoiser, transitions=transitions))
    reached = np.asarray(draw(image_keys(jax.random.key(0), np.arange(20)), x_T=jnp.asarray(x)))
    return float(np.sqrt(np.mean((reached - exact_flow(x, end)) ** 2)))


def spread_error(sampler: Sampler, num_steps: int, num: int = 1_000_000) -> float:
    """The error of the standard deviation of the images."""
    transitions = SCHEDULE.transitions(timesteps.log_snr(SCHEDULE, num_steps))
    x = np.random.default_rng(0).standard_normal((num, 1))
    draw = jax.jit(partial(sample, sampler, ONE.denoiser, transitions=transitions))
    reached = draw(image_keys(jax.random.key(0), np.arange(num)), x_T=jnp.asarray(x))
    return float(abs(jnp.std(reached) - 0.5))


def row(name: str, errors: list[float], counts: tuple[int, ...]) -> str:
    """A line of a table: the errors and their slope."""
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    return f"{name:<25}" + "".join(f"{error:11.2e}" for error in errors) + f"{slope:8.2f}"


def main() -> None:
    """Prints three tables."""
    with jax.enable_x64(True):
        for words, end in (("t = 1", SCHEDULE.level(1)), ("the clean image", CLEAN)):
            print(f"from T to {words}, steps {', '.join(map(str, MANY))}, and the slope")
            for name, sampler in DETERMINISTIC.items():
                print(row(name, [flow_error(sampler, count, end) for count in MANY], MANY), flush=True)
        print(f"error of the standard deviation, steps {', '.join(map(str, FEW))}, and the slope")
        for name, sampler in STOCHASTIC.items():
            print(row(name, [spread_error(sampler, count) for count in FEW], FEW), flush=True)


if __name__ == "__main__":
    cli.run(main, module=__name__)
