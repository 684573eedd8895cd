"""Editing of given pictures with a trained run: inpainting where they are masked, and interpolation between two.

Both use a trained model as it is. Inpainting is RePaint (`diffusion/samplers/repaint.py`). Interpolation encodes two
pictures by the probability-flow ODE, follows the great circle from one noise to the other on the sphere on which such
noise lies, and decodes (Song et al. 2020, section 5.3).
"""

import copy
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ddpm_jax import factory
from ddpm_jax.data.transforms import UnreadableImageError, decode
from ddpm_jax.diffusion import timesteps
from ddpm_jax.diffusion.arrays import Array
from ddpm_jax.diffusion.samplers import (
    Sampler,
    adams_bashforth,
    ddim,
    ddim_inverse,
    deis,
    dpm_solver_pp_2m,
    dpm_solver_pp_3m,
    heun,
    sample,
    unipc,
)
from ddpm_jax.diffusion.schedules import Transition
from ddpm_jax.errors import UserError
from ddpm_jax.runs.configured import checked_image
from ddpm_jax.runtime.buckets import AnyPath
from ddpm_jax.runtime.images import from_uint8, save_gif, save_png, tile_images, to_uint8
from ddpm_jax.runtime.paths import any_path
from ddpm_jax.runtime.storage import check_writable, read_bytes

if TYPE_CHECKING:
    from ddpm_jax.runs.run import Run

# The solvers that encode and decode, by the name of the sampler.
_FLOWS: dict[str, tuple[Callable[[], Sampler], Callable[[], Sampler]]] = {
    "ddim": (ddim_inverse, ddim),
    "heun": (heun, heun),
    "dpm_solver_pp_2m": (dpm_solver_pp_2m, dpm_solver_pp_2m),
    "dpm_solver_pp_3m": (dpm_solver_pp_3m, dpm_solver_pp_3m),
    "unipc": (unipc, unipc),
    "deis": (deis, deis),
    "adams_bashforth": (adams_bashforth, adams_bashforth),
}


def read_picture(path: str | os.PathLike[str], shape: tuple[int, int, int], *, what: str = "image") -> np.ndarray:
    """Reads an image file of exactly the model's size, as `[H, W, C]` float32 in [-1, 1].

    Args:
      path: the file.
      shape: `(H, W, C)`.
      what: what the file is used as, for the message.

    Raises:
      UserError: the file cannot be read, is not an image, or has another size.
    """
    try:
        picture = decode(read_bytes(any_path(path)))
    except (OSError, UnreadableImageError) as error:
        raise UserError(f"cannot read the {what} {path}: {getattr(error, 'strerror', None) or error}") from error
    height, width, channels = shape
    if picture.size != (width, height):
        raise UserError(
            f"the {what} {path} is {picture.width}x{picture.height} and the model's images are {width}x{height}: "
            "crop or resize it"
        )
    return from_uint8(np.asarray(picture.convert("L" if channels == 1 else "RGB"))).reshape(shape)


def read_mask(path: str | os.PathLike[str], shape: tuple[int, int, int]) -> np.ndarray:
    """Reads a mask as `[H, W, 1]` float32: 1 where it is black, which is known and kept, 0 where it is to be drawn.

    Args:
      path: the file.
      shape: `(H, W, C)` of the model's images.

    Raises:
      UserError: as `read_picture`, or the mask is black everywhere.
    """
    mask = read_picture(path, (*shape[:2], 1), what="mask")
    known = (mask < 0).astype(np.float32)
    if known.min() == 1:
        raise UserError(f"the mask {path} is completely black: paint white the part that is to be drawn")
    return known


def spherical(a: Array | np.ndarray, b: Array | np.ndarray, fraction: ArrayLike) -> Array:
    """`sin((1 - f) w) / sin(w) a + sin(f w) / sin(w) b`, where w is the angle between a and b (Shoemake 1985).

    Args:
      a, b: `[...]`, two noises of the same shape.
      fraction: `[F]` in [0, 1].

    Returns:
      `[F, ...]`, from a to b.
    """
    cosine = jnp.vdot(a, b) / (jnp.linalg.norm(a.ravel()) * jnp.linalg.norm(b.ravel()))
    angle = jnp.arccos(jnp.clip(cosine, -1, 1))
    fraction = jnp.asarray(fraction).reshape(-1, *[1] * a.ndim)
    # The straight line is taken between two noises of almost the same direction.
    left, right = jnp.sin((1 - fraction) * angle), jnp.sin(fraction * angle)
    straight = angle < 1e-4
    scale = jnp.where(straight, 1, jnp.sin(angle))
    return jnp.where(straight, 1 - fraction, left / scale) * a + jnp.where(straight, fraction, right / scale) * b


class Flow(NamedTuple):
    """The probability-flow ODE of a run, in both directions.

    Attributes:
      encode: function from images `[B, H, W, C]` in [-1, 1] to their noises, of the same shape.
      decode: function from noises to images, the inverse of `encode` up to the error of the solver.
    """

    encode: Callable[[ArrayLike], Array]
    decode: Callable[[ArrayLike], Array]


def flow(run: "Run", *, num_steps: int = 0) -> Flow:
    """The `Flow` of a run, for one class or unconditionally (Song et al. 2020, section 5.3).

    Args:
      run: `Run`; its sampler is used if it solves the ODE, else Heun's method.
      num_steps: number of steps of the encoding and of the decoding; 0 for 100, or T - 1 where that is less.

    Raises:
      UserError: the chain cannot have so many steps, or the run draws images of several classes.
    """
    config = copy.deepcopy(run.config)
    if config.labels.dropout and not run.classifier and not config.sample.labels:
        config.sample.labels = "none"
    labels = set(factory.labels(config, run.num_classes, names=run.class_names)) or {0}
    if len(labels) > 1:
        raise UserError("an interpolation needs exactly one class: choose it, as in labels=7")
    encoder, decoder = (solver() for solver in _FLOWS.get(config.sample.sampler, (heun, heun)))
    schedule, label = factory.noise_schedule(config), jnp.array([*labels], jnp.int32)
    try:
        times = timesteps.log_snr(schedule, num_steps or min(100, schedule.num_timesteps - 1))
    except ValueError as error:
        raise UserError(f"cannot solve the ODE in {num_steps} steps: {error}") from error
    up, down = (jax.tree.map(partial(np.asarray, dtype=np.float32), steps)
                for steps in (schedule.encoding(times[:-1]), schedule.transitions(times)))  # fmt: skip
    denoiser = run.denoiser()

    @partial(jax.jit, static_argnums=0)
    def solve(solver: Sampler, params: chex.ArrayTree, x: Array, transitions: Transition) -> Array:
        keys = jax.random.split(jax.random.key(0), len(x))  # the solvers are deterministic and draw nothing with them
        denoise = denoiser(params, jnp.repeat(label, len(x)))
        return sample(solver, denoise, keys, x_T=x, transitions=transitions)

    return Flow(
        encode=lambda images: solve(encoder, run.params, up.now.signal[0] * jnp.asarray(images), up),
        decode=lambda noises: solve(decoder, run.params, jnp.asarray(noises), down),
    )


def interpolation(run: "Run", a: ArrayLike, b: ArrayLike, *, num_images: int = 9, num_steps: int = 0) -> np.ndarray:
    """Images that lead from one picture to another through their noises, both ends included.

    Args:
      run, num_steps: as for `flow`.
      a, b: the pictures, `[H, W, C]` in [-1, 1].
      num_images: number of images, 2 or more.

    Returns:
      `[num_images, H, W, C]` uint8.

    Raises:
      UserError: a picture has another shape or other values, or as `flow`.
    """
    ends = [checked_image(end, run.shape) for end in (a, b)]
    encode, decode = flow(run, num_steps=num_steps)
    noises = encode(np.stack(ends))
    return to_uint8(decode(spherical(noises[0], noises[1], np.linspace(0, 1, num_images, dtype=np.float32))))


def interpolate(
    run: "Run",
    paths: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    num_images: int = 9,
    num_steps: int = 0,
) -> AnyPath:
    """Writes the `interpolation` between two picture files.

    Args:
      run, num_images, num_steps: as for `interpolation`.
      paths: the two picture files, of the model's size.
      out: `FILE.png` for a row, `FILE.gif` for a moving picture.

    Returns:
      The path written.

    Raises:
      UserError: a picture cannot be read, `out` cannot be written, or as `flow`.
    """
    out = any_path(out)
    if out.suffix not in (".png", ".gif"):
        raise UserError(f"{out} must end in .png (a row of images) or .gif (an animation)")
    if len(paths) != 2 or num_images < 2:
        raise UserError("an interpolation needs two pictures, and num_images of at least 2")
    ends = [read_picture(path, run.shape) for path in paths]
    check_writable(out)
    images = interpolation(run, *ends, num_images=num_images, num_steps=num_steps)
    if out.suffix == ".gif":
        save_gif(out, np.stack([tile_images(image[None]) for image in images]))
    else:
        save_png(out, tile_images(images, columns=num_images))
    return out
