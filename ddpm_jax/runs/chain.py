"""A reverse chain compiled for all devices, and images drawn with it one batch after another.

Image i is drawn from `fold_in(seed, i)` and nothing else, so it is the same whatever the batch size or the number of
devices, up to the rounding of another compiled program. The chain is one scan (`diffusion/samplers/driver.py`), which
the host runs in pieces so that a progress bar can advance and frames can be kept without holding every step. Read
next: `run.py`.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Self

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from numpy.typing import ArrayLike

from ddpm_jax.diffusion.arrays import image_keys, noise_like, stream
from ddpm_jax.diffusion.samplers import Sampler, SamplerState, advance
from ddpm_jax.diffusion.samplers.driver import IndexedTransitions
from ddpm_jax.diffusion.schedules import Transition
from ddpm_jax.factory.chains import Settings
from ddpm_jax.factory.models import ParametricDenoiser
from ddpm_jax.runtime.devices import replicated, split, to_host
from ddpm_jax.runtime.images import to_uint8
from ddpm_jax.runtime.progress import progress_bar

_MAX_PIECE = 50  # steps of the chain between two updates of the progress bar


class Chain:
    """A reverse chain compiled for a mesh: `chain(params, key, indices=...)` draws images.

    Args:
      sampler: function from settings to a `Sampler`.
      settings: `{name: number}`, inputs of the compiled chain: changing them compiles nothing.
      denoiser: function `(params, label, settings)` to a `Denoiser`.
      transitions: the N transitions of the chain, leaves `[N]`.
      shape: shape of an image, `(H, W, C)`.
      mesh: the devices; a batch is cut evenly over them.
      labels: classes that the images take in turn: image i has `labels[i % len(labels)]`; () for none.

    Attributes:
      num_moves: N, the number of steps.
      settings: as above.
      columns: number of columns of a grid in which each class has its own column; None for one class or none.
    """

    def __init__(
        self,
        sampler: Callable[[Settings], Sampler],
        denoiser: ParametricDenoiser,
        *,
        settings: Settings,
        transitions: Transition,
        shape: tuple[int, ...],
        mesh: Mesh,
        labels: Sequence[int] = (),
    ) -> None:
        self.num_moves, self._mesh, self.settings = len(transitions.beta), mesh, settings
        self._take_turns(labels)
        self._times = np.append(transitions.now.t, transitions.next.t[-1])
        self._moves: IndexedTransitions = (
            np.arange(self.num_moves),
            jax.tree.map(partial(np.asarray, dtype=np.float32), transitions),
        )
        whole, cut = replicated(mesh), split(mesh)

        def start(key: jax.Array, indices: jax.Array, settings: Settings) -> tuple[jax.Array, SamplerState]:
            keys = image_keys(key, indices)
            x_T = noise_like(stream(keys, "x_T"), jnp.zeros((len(indices), *shape)))
            return stream(keys, "chain"), sampler(settings).init(x_T)

        def take(
            params: chex.ArrayTree,
            keys: jax.Array,
            state: SamplerState,
            label: jax.Array,
            moves: IndexedTransitions,
            settings: Settings,
        ) -> SamplerState:
            denoise = denoiser(params, label, settings)
            return advance(sampler(settings), denoise, keys, state=state, moves=moves)[0]

        self._start = jax.jit(start, in_shardings=(whole, cut, whole), out_shardings=cut)
        self._take = jax.jit(
            take, in_shardings=(whole, cut, cut, cut, whole, whole), out_shardings=cut, donate_argnums=2
        )

    def __call__(
        self,
        params: chex.ArrayTree,
        key: jax.Array,
        *,
        indices: ArrayLike,
        num_frames: int = 1,
        progress: Callable[[int], object] | None = None,
    ) -> np.ndarray:
        """Draws the images of the given indices.

        Args:
          params: parameters, on the mesh.
          key: the root key of the seed.
          indices: `[B]` integers; any B, which is padded to a multiple of the number of devices.
          num_frames: keep at least this many frames of the chain (1: only the end).
          progress: function called with the number of steps taken since its last call.

        Returns:
          `[F, B, H, W, C]` float32 on the host, evenly spaced along the chain, the last being the images.
        """
        indices = np.asarray(indices)
        padded = np.pad(indices, (0, -len(indices) % self._mesh.size), mode="edge")
        placed, label = jax.device_put((padded, self.label(padded)), split(self._mesh))
        keys, state = self._start(key, placed, self.settings)
        frames = [to_host(state.x)] if num_frames > 1 else []
        for moves in pieces(self._moves, at_most=math.ceil(self.num_moves / num_frames)):
            state = jax.block_until_ready(self._take(params, keys, state, label, moves, self.settings))
            if num_frames > 1:
                frames.append(to_host(state.x))
            if progress:
                progress(len(moves[0]))
        return np.stack(frames or [to_host(state.x)])[:, : len(indices)]

    def varied(self, *, settings: Settings, labels: Sequence[int]) -> Self:
        """A chain with other settings and classes that runs the same compiled programs as this one."""
        other = copy.copy(self)
        other.settings = settings
        other._take_turns(labels)
        return other

    def _take_turns(self, labels: Sequence[int]) -> None:
        """Stores the classes, and the number of columns of a grid of them."""
        self._labels, self.columns = np.array(labels or (0,), np.int32), len(labels) if len(labels) > 1 else None

    def lower(self, params: chex.ArrayTree, *, batch_size: int, platform: str) -> jax.stages.Lowered:
        """A piece of the chain lowered for a platform ("tpu", "cuda", "cpu"), which this machine need not have.

        Args:
          params: parameters or their shapes.
          batch_size: number of images.
          platform: name of the platform.
        """
        indices, moves = np.arange(batch_size), next(pieces(self._moves))
        keys, state = jax.eval_shape(self._start, jax.random.key(0), indices, self.settings)
        take = self._take.trace(params, keys, state, self.label(indices), moves, self.settings)
        return take.lower(lowering_platforms=(platform,))

    def label(self, indices: np.ndarray) -> np.ndarray:
        """The classes `[B]` of the images of these indices `[B]`, integers."""
        return self._labels[indices % len(self._labels)]

    def frame_times(self, num_frames: int) -> np.ndarray:
        """The times of the frames that a call with `num_frames` returns, `[F]`, falling."""
        at_most = math.ceil(self.num_moves / num_frames)
        lengths = [len(moves[0]) for moves in pieces(self._moves, at_most=at_most)]
        return self._times[np.cumsum([0, *lengths])]


def draw(
    chain: Chain,
    params: chex.ArrayTree,
    *,
    seed: int,
    indices: ArrayLike,
    batch_size: int,
    sink: Callable[[np.ndarray, np.ndarray], object] | None = None,
) -> np.ndarray | None:
    """Draws images batch by batch under a progress bar.

    Args:
      chain: `Chain`.
      params: parameters on its mesh.
      seed: integer; image i depends on it and on i alone.
      indices: `[N]` integers, the images to draw.
      batch_size: images at a time; the last batch is padded, so that one size is compiled.
      sink: function of (indices, uint8 images), called after each batch.

    Returns:
      `[N, H, W, C]` uint8, or None with a sink.
    """
    indices, kept, key = np.asarray(indices), [], jax.random.key(seed)
    batches = [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]
    with progress_bar(len(batches) * chain.num_moves, "sampling", unit="step") as bar:
        for batch in batches:
            padded = np.pad(batch, (0, batch_size - len(batch)), mode="edge")
            images = to_uint8(chain(params, key, indices=padded, progress=bar.update)[-1][: len(batch)])
            kept.append(images) if sink is None else sink(batch, images)
    return np.concatenate(kept) if sink is None else None


def pieces(moves: IndexedTransitions, *, at_most: int = _MAX_PIECE) -> Iterator[IndexedTransitions]:
    """Cuts steps `(index [N], Transition [N])` into pieces of one length, so that a program for them compiles once.

    The length is the largest divisor of N that is at most the limit, the smallest of `at_most`, 50 and N. Where that
    divisor is less than half of the limit, the limit is the length, and the last piece is shorter and compiles again.
    """
    num_moves = len(moves[0])
    limit = min(at_most, _MAX_PIECE, num_moves)
    length = max(d for d in range(1, limit + 1) if num_moves % d == 0)
    length = length if 2 * length >= limit else limit
    for begin in range(0, num_moves, length):
        yield jax.tree.map(lambda leaf, begin=begin: leaf[begin : begin + length], moves)
