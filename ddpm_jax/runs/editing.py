"""Pictures of one's own in a chain: filled in where they are masked, or turned one into another.

Both use a trained model as it is. Filling in is RePaint (`diffusion/samplers/repaint.py`). Interpolation encodes two pictures by
the probability-flow ODE, goes from the one noise to the other along the sphere on which such noise lies, and decodes
(Song et al. 2020, section 5.3).
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax import factory
from ddpm_jax.diffusion import timesteps
from ddpm_jax.diffusion.arrays import Array
from ddpm_jax.data.transforms import UnreadableImageError, decode
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.images import check_writable, from_uint8, grid, save_gif, save_png, to_uint8
from ddpm_jax.runtime.paths import local_path
from ddpm_jax.diffusion.samplers import ddim, ddim_inverse, dpm_solver_pp_2m, heun, sample

# Ways up to the encoding and down again.
_FLOWS = {"ddim": (ddim_inverse, ddim), "heun": (heun, heun), "dpm_solver_pp_2m": (dpm_solver_pp_2m, dpm_solver_pp_2m)}


def read_picture(path, shape, *, what="image"):
    """An image file of exactly the model's size, `[H, W, C]` float32 in [-1, 1].

    Args:
      path: the file.
      shape: `(H, W, C)`.
      what: what it is to be, for the message.

    Raises:
      UserError: no such file, no image, or one of another size.
    """
    try:
        picture = decode(local_path(path).read_bytes())
    except (OSError, UnreadableImageError) as error:
        raise UserError(f"cannot read the {what} {path}: {getattr(error, 'strerror', None) or error}") from error
    height, width, channels = shape
    if picture.size != (width, height):
        raise UserError(
            f"the {what} {path} is {picture.width}x{picture.height} and the model's images are {width}x{height}: "
            "crop or resize it"
        )
    return from_uint8(np.asarray(picture.convert("L" if channels == 1 else "RGB"))).reshape(shape)


def read_mask(path, shape):
    """Where a mask is black: 1 for what is known and kept, 0 for what is white and to be drawn, `[H, W, 1]`."""
    mask = read_picture(path, (*shape[:2], 1), what="mask")
    known = (mask < 0).astype(np.float32)
    if known.min() == 1:
        raise UserError(f"the mask {path} is black all over: paint white what is to be drawn")
    return known


def spherical(a, b, fraction):
    """`sin((1 - f) w) / sin(w) a + sin(f w) / sin(w) b`, w the angle between the two (Shoemake 1985).

    Args:
      a, b: `[...]`, two noises.
      fraction: `[F]` in [0, 1].

    Returns:
      `[F, ...]`, from a to b.
    """
    cosine = jnp.vdot(a, b) / (jnp.linalg.norm(a.ravel()) * jnp.linalg.norm(b.ravel()))
    angle = jnp.arccos(jnp.clip(cosine, -1, 1))
    fraction = jnp.asarray(fraction).reshape(-1, *[1] * a.ndim)
    # Of two noises that are alike in direction, the straight line.
    left, right = jnp.sin((1 - fraction) * angle), jnp.sin(fraction * angle)
    straight = angle < 1e-4
    scale = jnp.where(straight, 1, jnp.sin(angle))
    return jnp.where(straight, 1 - fraction, left / scale) * a + jnp.where(straight, fraction, right / scale) * b


class Flow(NamedTuple):
    """A run's probability-flow ODE, in both directions.

    Attributes:
      encode: images `[B, H, W, C]` in [-1, 1] to their noises, of the same shape.
      decode: noises to images, its inverse up to the error of the solver.
    """

    encode: Callable[[Array], Array]
    decode: Callable[[Array], Array]


def flow(run, *, num_steps=0):
    """The `Flow` of a run, of one class or none (Song et al. 2020, section 5.3).

    Args:
      run: `Run`; its sampler is used if it follows the ODE (ddim, heun, dpm_solver_pp_2m), else Heun's.
      num_steps: of the encoding and of the decoding; 0 for 100.

    Raises:
      UserError: the chain cannot have so many steps, or the run draws images of several classes.
    """
    config = copy.deepcopy(run.config)
    if config.labels.dropout and not run.classifier and not config.sample.labels:
        config.sample.labels = "none"
    labels = set(factory.labels(config, run.num_classes, names=run.class_names)) or {0}
    if len(labels) > 1:
        raise UserError("an interpolation with classes is of one class: choose it, as in --labels=7")
    encoder, decoder = (solver() for solver in _FLOWS.get(config.sample.sampler, (heun, heun)))
    schedule, label = factory.noise_schedule(config), jnp.array([*labels], jnp.int32)
    try:
        times = timesteps.log_snr(schedule, num_steps or min(100, schedule.num_timesteps - 1))
    except ValueError as error:
        raise UserError(f"no ODE of {num_steps} steps: {error}") from error
    up, down = (jax.tree.map(partial(np.asarray, dtype=np.float32), moves)
                for moves in (schedule.encoding(times[:-1]), schedule.transitions(times)))  # fmt: skip
    denoiser = run.denoiser()

    @partial(jax.jit, static_argnums=0)
    def move(solver, params, x, transitions):
        keys = jax.random.split(jax.random.key(0), len(x))  # no noise is drawn with them
        denoise = denoiser(params, jnp.repeat(label, len(x)))
        return sample(solver, denoise, keys, x_T=x, transitions=transitions)

    return Flow(
        encode=lambda images: move(encoder, run.params, up.now.signal[0] * jnp.asarray(images), up),
        decode=lambda noises: move(decoder, run.params, jnp.asarray(noises), down),
    )


def interpolation(run, a, b, *, num_images=9, num_steps=0):
    """The way from one picture to another through their noises, ends included.

    Args:
      run, num_steps: as for `flow`.
      a, b: the pictures, `[H, W, C]` in [-1, 1].
      num_images: pictures in all, 2 or more.

    Returns:
      `[num_images, H, W, C]` uint8.
    """
    encode, decode = flow(run, num_steps=num_steps)
    noises = encode(np.stack([a, b]))
    return to_uint8(decode(spherical(*noises, np.linspace(0, 1, num_images, dtype=np.float32))))


def interpolate(run, paths, out, *, num_images=9, num_steps=0):
    """Writes the `interpolation` between two picture files.

    Args:
      run, num_images, num_steps: as for `interpolation`.
      paths: of the two pictures, of the model's size.
      out: `FILE.png` for a row, `FILE.gif` for a moving picture.

    Returns:
      The path written.
    """
    out = local_path(out)
    if out.suffix not in (".png", ".gif"):
        raise UserError(f"--out={out}: an interpolation is a row, .png, or a moving picture, .gif")
    if len(paths) != 2 or num_images < 2:
        raise UserError("--interpolate takes two pictures, A.png,B.png, and --num_images of 2 or more")
    ends = [read_picture(path, run.shape) for path in paths]
    check_writable(out)
    images = interpolation(run, *ends, num_images=num_images, num_steps=num_steps)
    if out.suffix == ".gif":
        save_gif(out, np.stack([grid(image[None]) for image in images]))
    else:
        save_png(out, grid(images, columns=num_images))
    return out
