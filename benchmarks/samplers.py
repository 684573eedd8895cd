"""Compares samplers with several numbers of steps on a digits run: quality, network evaluations, seconds.

  python benchmarks/samplers.py --workdir=runs/digits

Quality is precision, recall and the Frechet distance of pixels in [-1, 1]. Few steps shrink the samples towards the
mean, where precision finds them and recall does not; the distance sees what is missing.

The first row is the run's own chain of all T steps. The network evaluations are counted per image; the seconds are
those for 500 images after compilation on this machine.
"""

import time

import _root  # noqa: F401
import jax
import numpy as np
from _digits_features import NUM, Quality, quality
from absl import flags

from ddpm_jax.commands import cli
from ddpm_jax.runs.chain import draw
from ddpm_jax.runs.run import Run

WORKDIR = flags.DEFINE_string("workdir", "runs/digits", "The directory of the run to measure.")
STEPS = flags.DEFINE_list("steps", "5,10,20,50,100", "The numbers of steps of the chain, separated by commas.")

ROWS: dict[str, dict[str, str | float]] = {
    "ancestral, large": {"sampler": "ancestral", "variance": "large", "grid": "trailing"},
    "ancestral, small": {"sampler": "ancestral", "variance": "small", "grid": "trailing"},
    "DDIM, eta 0": {"sampler": "ddim", "eta": 0.0, "grid": "trailing"},
    "Heun": {"sampler": "heun", "grid": "karras"},
    "DPM-Solver++(2M)": {"sampler": "dpm_solver_pp_2m", "grid": "trailing"},
    "Euler-Maruyama": {"sampler": "euler_maruyama", "grid": "karras"},
}


def measure(run: Run, num_steps: int) -> tuple[Quality, float]:
    """Quality and seconds of a run's sampler in `num_steps` steps; 0 takes what its configuration says."""
    chain = run.chain(num_steps)
    chain(run.params, jax.random.key(0), indices=np.arange(100))
    begin = time.perf_counter()
    samples = draw(chain, run.params, seed=0, indices=np.arange(NUM), batch_size=100)
    seconds = time.perf_counter() - begin
    return quality(samples), seconds


def main() -> None:
    """Prints the table."""
    run = Run(WORKDIR.value)
    print(f"{NUM} digits, pixels, k = 3, {jax.device_count()} x {jax.devices()[0].device_kind}")
    names = f"{'precision':>11}{'recall':>8}{'FD':>8}{'seconds':>9}"
    print(f"{'sampler':<22}{'grid':<11}{'steps':>6}{'evaluations':>13}{names}")
    rows = [("of the run", {}, 0)] + [(name, ROWS[name], int(steps)) for name in ROWS for steps in STEPS.value]
    for name, settings, steps in rows:
        measured, seconds = measure(run.configure(**settings), steps)
        moves = steps or run.config.diffusion.num_timesteps
        evaluations = 2 * moves - 1 if settings.get("sampler") == "heun" else moves
        grid = settings.get("grid", run.config.sample.grid)
        print(
            f"{name:<22}{grid:<11}{moves:>6}{evaluations:>13}{measured.precision:>11.3f}{measured.recall:>8.3f}"
            f"{measured.frechet:>8.3f}{seconds:>9.2f}",
            flush=True,
        )


if __name__ == "__main__":
    cli.run(main, module=__name__)
