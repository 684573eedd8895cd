"""A reverse chain compiled for all devices, and images drawn with it one batch after another.

Image i is drawn from `fold_in(seed, i)` and nothing else, so it is the same whatever the batch size or the number of
devices, up to the rounding of another compiled program. The chain is one scan (`diffusion/samplers/driver.py`), taken in pieces
from the host so that a progress bar can move and frames can be kept without holding every step. Read next:
`run.py`.
"""

import copy
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.arrays import image_keys, noise_like, stream
from ddpm_jax.runtime.images import to_uint8
from ddpm_jax.runtime.devices import replicated, split, to_host
from ddpm_jax.runtime.progress import progress_bar
from ddpm_jax.diffusion.samplers import advance

_MAX_PIECE = 50  # moves of the chain between two looks of the progress bar


class Chain:
    """A reverse chain compiled for a mesh: `chain(params, key, indices=...)` draws images.

    Args:
      sampler: function from settings to a `Sampler`.
      settings: `{name: number}`, inputs of the compiled chain: changing them compiles nothing.
      denoiser: function `(params, label, settings)` to a `Denoiser`.
      transitions: the chain's N moves.
      shape: `(H, W, C)`.
      mesh: the devices; a batch is cut evenly over them.
      labels: classes that the images take in turn: image i has `labels[i % len(labels)]`; () for none.

    Attributes:
      columns: of a grid in which each class has its own; None where there is one class or none.
    """

    def __init__(self, sampler, denoiser, *, settings, transitions, shape, mesh, labels=()):
        self.num_moves, self._mesh, self.settings = len(transitions.beta), mesh, settings
        self._take_turns(labels)
        self._times = np.append(transitions.now.t, transitions.next.t[-1])
        self._moves = (
            np.arange(self.num_moves),
            jax.tree.map(partial(np.asarray, dtype=np.float32), transitions),
        )
        whole, cut = replicated(mesh), split(mesh)

        def start(key, indices, settings):
            keys = image_keys(key, indices)
            x_T = noise_like(stream(keys, "x_T"), jnp.zeros((len(indices), *shape)))
            return stream(keys, "chain"), sampler(settings).init(x_T)

        def take(params, keys, state, label, moves, settings):
            denoise = denoiser(params, label, settings)
            return advance(sampler(settings), denoise, keys, state=state, moves=moves)[0]

        self._start = jax.jit(start, in_shardings=(whole, cut, whole), out_shardings=cut)
        self._take = jax.jit(
            take, in_shardings=(whole, cut, cut, cut, whole, whole), out_shardings=cut, donate_argnums=2
        )

    def __call__(self, params, key, *, indices, num_frames=1, progress=None):
        """Draws the images of the given indices.

        Args:
          params: parameters, on the mesh.
          key: the root key of the seed.
          indices: `[B]` integers; any B, filled up to a multiple of the number of devices.
          num_frames: keep at least so many frames of the chain (1: only the end).
          progress: function called with the number of moves taken since its last call.

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

    def varied(self, *, settings, labels):
        """This chain with other numbers and classes, made of the same compiled programs."""
        other = copy.copy(self)
        other.settings = settings
        other._take_turns(labels)
        return other

    def _take_turns(self, labels):
        """Keeps the classes, and the columns of a grid of them."""
        self._labels, self.columns = np.array(labels or (0,), np.int32), len(labels) if len(labels) > 1 else None

    def lower(self, params, *, batch_size, platform):
        """A piece of the chain lowered for a platform ("tpu", "cuda", "cpu") that need not be here.

        Args:
          params: parameters or their shapes.
          batch_size: images.
          platform: name.
        """
        indices, moves = np.arange(batch_size), next(pieces(self._moves))
        keys, state = jax.eval_shape(self._start, jax.random.key(0), indices, self.settings)
        take = self._take.trace(params, keys, state, self.label(indices), moves, self.settings)
        return take.lower(lowering_platforms=(platform,))

    def label(self, indices):
        """The classes of images `[B]`."""
        return self._labels[indices % len(self._labels)]

    def frame_times(self, num_frames):
        """The times of the frames that a call with `num_frames` returns, `[F]`, falling."""
        at_most = math.ceil(self.num_moves / num_frames)
        lengths = [len(moves[0]) for moves in pieces(self._moves, at_most=at_most)]
        return self._times[np.cumsum([0, *lengths])]


def draw(chain, params, *, seed, indices, batch_size, sink=None):
    """Draws images batch by batch under a progress bar.

    Args:
      chain: `Chain`.
      params: parameters on its mesh.
      seed: integer; image i depends on it and on i alone.
      indices: which images.
      batch_size: images at a time; the last batch is filled up, so that one size is compiled.
      sink: function of (indices, uint8 images), called after each batch.

    Returns:
      `[N, H, W, C]` uint8, or None with a sink.
    """
    indices, kept, key = np.asarray(indices), [], jax.random.key(seed)
    batches = [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]
    with progress_bar(len(batches) * chain.num_moves, "sampling", unit="move") as bar:
        for batch in batches:
            padded = np.pad(batch, (0, batch_size - len(batch)), mode="edge")
            images = to_uint8(chain(params, key, indices=padded, progress=bar.update)[-1][: len(batch)])
            kept.append(images) if sink is None else sink(batch, images)
    return np.concatenate(kept) if sink is None else None


def pieces(moves, *, at_most=_MAX_PIECE):
    """Cuts moves `(index [N], Transition [N])` into pieces of one length, so that a program for them compiles once.

    The length is the largest divisor of N up to `at_most` and 50; where N has none that is half as long, the last piece
    is shorter and compiles once more.
    """
    num_moves = len(moves[0])
    limit = min(at_most, _MAX_PIECE, num_moves)
    length = max(d for d in range(1, limit + 1) if num_moves % d == 0)
    length = length if 2 * length >= limit else limit
    for begin in range(0, num_moves, length):
        yield jax.tree.map(lambda leaf, begin=begin: leaf[begin : begin + length], moves)
