"""What the tests compare with: analytic distributions, and the lists of all schedules, grids, targets and samplers.

A new one is tested as soon as it is listed here: the tests run over the lists with `each`.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from ddpm_jax.diffusion import schedules, timesteps
from ddpm_jax.diffusion.analytic import FiniteData, Gaussian, GaussianMixture
from ddpm_jax.diffusion.arrays import image_keys
from ddpm_jax.diffusion.prediction import EdmTarget, Regression, Target
from ddpm_jax.diffusion.samplers import (
    Sampler,
    Variance,
    ancestral,
    annealed_langevin,
    ddim,
    dpm_solver_pp_2m,
    euler_maruyama,
    heun,
    langevin_corrector,
)

Tree = TypeVar("Tree")

# Schedules of any length: `T -> NoiseSchedule`.
ALL_SCHEDULES: dict[str, Callable[[int], schedules.NoiseSchedule]] = {
    "linear": schedules.linear,
    "quadratic": schedules.quadratic,
    "sigmoid": schedules.sigmoid,
    "cosine": schedules.cosine,
    "log_snr": schedules.log_snr,
    "shifted": lambda num_timesteps: schedules.shifted(schedules.cosine(num_timesteps), 2.0),
    "from_betas": lambda num_timesteps: schedules.from_betas(np.geomspace(1e-4, 0.05, num_timesteps)),
}

# Schedules that end in noise.
TO_NOISE: dict[str, Callable[[int], schedules.NoiseSchedule]] = {
    "straight": schedules.straight,
    "zero_terminal_snr": lambda num_timesteps: schedules.zero_terminal_snr(schedules.linear(num_timesteps)),
    "shifted": lambda num_timesteps: schedules.shifted(schedules.straight(num_timesteps), 3.0),
}

# Grids of times: `(schedule, N) -> [N + 1]`.
ALL_GRIDS: dict[str, Callable[[schedules.NoiseSchedule, int], np.ndarray]] = {
    "uniform": timesteps.uniform,
    "trailing": timesteps.trailing,
    "leading": timesteps.leading,
    "linspace": timesteps.linspace,
    "quadratic": timesteps.quadratic,
    "log_snr": timesteps.log_snr,
    "karras": timesteps.karras,
}

ALL_TARGETS: dict[str, Regression] = {**{target.value: target for target in Target}, "edm": EdmTarget(0.7)}

ALL_SAMPLERS: dict[str, Sampler] = {
    "ancestral-small": ancestral(Variance.SMALL),
    "ancestral-large": ancestral(Variance.LARGE),
    "ddim": ddim(),
    "ddim-half": ddim(eta=0.5),
    "heun": heun(),
    "dpm_solver_pp_2m": dpm_solver_pp_2m(),
    "euler_maruyama": euler_maruyama(),
    "langevin_corrector": langevin_corrector(ancestral(Variance.SMALL)),
    "annealed_langevin": annealed_langevin(step_size=0.5, num_steps=5),
}

GAUSSIAN = Gaussian([0.3, -0.4, 0.1], [[0.5, 0.2, -0.1], [0.2, 0.3, 0.1], [-0.1, 0.1, 0.4]])

MIXTURE = GaussianMixture(
    weights=[0.2, 0.5, 0.3],
    means=[[-0.8, 0.6], [0.5, 0.7], [0.1, -0.8]],
    covariances=[[[0.04, 0.02], [0.02, 0.03]], [[0.01, 0.0], [0.0, 0.09]], [[0.09, -0.02], [-0.02, 0.02]]],
)

# The digits 0, 1 and 7 as pictures `[4, 4, 1]` of -1 and 1.
_DIGITS = ("####/#..#/#..#/####", "..#./.##./..#./..#.", "####/..#./.#../#...")
IMAGES = FiniteData([[[[1 - 2 * (pixel == ".")] for pixel in row] for row in d.split("/")] for d in _DIGITS])

# The analytic distributions.
ALL_ORACLES: dict[str, Gaussian | GaussianMixture | FiniteData] = {
    "gaussian": GAUSSIAN,
    "mixture": MIXTURE,
    "images": IMAGES,
}


# Few examples, always the same ones; the fixture `x64` may stay set up between them.
PROPERTY = settings(
    max_examples=30,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def each(name: str, table: Mapping[str, Any]) -> pytest.MarkDecorator:
    """Runs a test once for every entry of a table, under the entry's name."""
    return pytest.mark.parametrize(name, list(table.values()), ids=list(table))


def keys(n: int, seed: int = 0) -> jax.Array:
    """`[n]` keys, one per image."""
    return image_keys(jax.random.key(seed), np.arange(n))


def pick(tree: Tree, index: int | slice | np.ndarray | jax.Array) -> Tree:
    """Slices or gathers every leaf of a tree, such as a `Transition` or a `NoiseLevel`."""
    return jax.tree.map(lambda a: a[index], tree)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Standard normal numbers in float64, on the host."""
    return np.random.default_rng(seed).standard_normal(shape)
