"""Plots chains of DDPM and DDIM from the same starts over the exact density of the noisy data at every t.

  python benchmarks/two_ways_down.py --out=docs/images/two_ways_down.png

The data is a mixture of three Gaussians on the line, for which the optimal denoiser is known. There are four chains
from each of three starts: those of DDPM end in different places, those of DDIM always in the same place.
"""

import _root  # noqa: F401
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import ddpm_jax as dj
from ddpm_jax.commands import cli
from ddpm_jax.evaluation import plots

OUT = flags.DEFINE_string("out", "runs/two_ways_down.png", "The PNG file for the plot.")


def main() -> None:
    """Writes the plot."""
    schedule = dj.schedules.linear(1000)
    means, covariances = np.array([[-1.2], [0.0], [0.9]]), np.array([[[0.02]], [[0.01]], [[0.04]]])
    mixture = dj.analytic.GaussianMixture(np.array([0.5, 0.2, 0.3]), means, covariances)
    x_T = jnp.repeat(jnp.array([[-1.4], [0.3], [1.6]]), 4, axis=0)
    keys, transitions = dj.image_keys(jax.random.key(0), np.arange(len(x_T))), schedule.transitions()
    figure, axes = plots.panels(2, width=4.6)
    samplers = {"DDPM": dj.samplers.ancestral(dj.Variance.SMALL), "DDIM": dj.samplers.ddim()}
    for panel, (name, sampler) in zip(axes, samplers.items(), strict=True):
        xs = dj.sample(sampler, mixture.denoiser, keys, x_T=x_T, transitions=transitions, trajectory=True)
        plots.history(panel, mixture.log_prob, schedule, extent=3)
        plots.paths(panel, np.arange(1000, -1, -1), xs[..., 0])
        panel.plot(np.zeros(len(x_T)), xs[-1, :, 0], ".", color=plots.style.INK, markersize=6, clip_on=False, zorder=3)
        panel.set(title=f"{name}: 3 starts, {len(np.unique(np.round(xs[-1], 3)))} ends")
    figure.savefig(OUT.value)
    print(f"wrote {OUT.value}")


if __name__ == "__main__":
    cli.run(main, module=__name__)
