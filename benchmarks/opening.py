"""Draws the picture that opens README.md: noise becomes data, in the plane with scores and densities, and as digits.

  python benchmarks/opening.py --out=docs/images/opening.png

Above, 400 points follow the reverse process of a distribution whose density and score are known exactly, a spiral of 24
Gaussians. Below, the trained run draws digits: they are the noisy images of its chain at the same times.
"""

import _root  # noqa: F401
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from PIL import Image

import ddpm_jax as dj
from ddpm_jax.commands import cli
from ddpm_jax.evaluation import plots
from ddpm_jax.runtime.paths import any_path
from ddpm_jax.runtime.storage import write_whole

OUT = flags.DEFINE_string("out", "runs/opening.png", "The PNG file for the picture.")
WORKDIR = flags.DEFINE_string("workdir", "runs/digits", "The run that draws the digits.")

TIMES = (1000, 300, 200, 120, 60, 0)
EXTENT = 2.9
DIGITS = 2  # rows and columns of digits at each time


def spiral() -> dj.analytic.GaussianMixture:
    """A spiral of 24 Gaussians in the plane."""
    angle = np.sqrt(np.linspace(0.1, 1, 24)) * 3.6 * np.pi
    means = 0.19 * angle[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return dj.analytic.GaussianMixture(np.full(24, 1 / 24), means, np.tile(0.02 * np.eye(2), (24, 1, 1)))


def points(mixture: dj.analytic.GaussianMixture, schedule: dj.schedules.NoiseSchedule) -> np.ndarray:
    """Points of the reverse process at the times of the picture, `[F, 400, 2]`."""
    keys = dj.image_keys(jax.random.key(0), np.arange(400))
    x_T, steps = jax.random.normal(jax.random.key(1), (400, 2)), schedule.transitions()
    chain = jax.jit(lambda x: dj.sample(dj.samplers.ancestral(dj.Variance.SMALL), mixture.denoiser, keys,
                                        x_T=x, transitions=steps, trajectory=True))  # fmt: skip
    return np.asarray(chain(x_T))[1000 - np.array(TIMES)]


def digits() -> np.ndarray:
    """Noisy digits of the chain of the run at the same times, `[F, DIGITS**2, 8, 8, 1]` uint8."""
    frames = dj.Run(WORKDIR.value).configure(sampler="ddim").trajectory(DIGITS**2, num_steps=100, num_frames=100)
    return dj.to_uint8(frames.x[[np.flatnonzero(frames.times == t)[0] for t in TIMES]])


def draw(panel: plots.style.Axes, mixture: dj.analytic.GaussianMixture, level: dj.NoiseLevel, x: np.ndarray) -> None:
    """The density of the noisy data in a panel, with its score as arrows, and points `[N, 2]`."""
    level = jax.tree.map(jnp.asarray, level)
    log_prob = jax.jit(lambda at: mixture.log_prob(at, level))
    score = jax.jit(jax.vmap(jax.grad(lambda at: mixture.log_prob(at[None], level)[0])))
    plots.density(panel, log_prob, extent=EXTENT)
    plots.arrows(panel, score, extent=EXTENT, num=11)
    panel.plot(*x.T, ".", markersize=2.5, color=plots.COLOURS[1])
    panel.grid(visible=False)


def main() -> None:
    """Writes the picture."""
    mixture, schedule = spiral(), dj.schedules.linear(1000)
    figure, axes = plots.panels(len(TIMES), 2, width=1.75, height=1.9)
    figure.set_layout_engine("constrained", h_pad=0.02, w_pad=0.03)
    upper, lower = axes[: len(TIMES)], axes[len(TIMES) :]
    for i, (x, images) in enumerate(zip(points(mixture, schedule), digits(), strict=True)):
        words = {0: "noise, ", len(TIMES) - 1: "data, "}.get(i, "")
        draw(upper[i], mixture, schedule.level(max(TIMES[i], 1)), x)
        upper[i].set_title(f"{words}t = {TIMES[i]}", fontsize=10)
        lower[i].imshow(dj.images.tile_images(images, columns=DIGITS).squeeze(), cmap="gray", vmin=0, vmax=255)
        lower[i].axis("off")
    figure.suptitle("sampling: the score of the noisy data leads from noise to data  \N{RIGHTWARDS ARROW}", fontsize=11)
    figure.savefig(OUT.value, dpi=120)
    image = Image.open(OUT.value).convert("RGB").quantize(160)  # a third of the size
    write_whole(any_path(OUT.value), lambda path: image.save(path, optimize=True))
    print(f"wrote {OUT.value}")


if __name__ == "__main__":
    cli.run(main, module=__name__)
