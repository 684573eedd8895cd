"""A reverse chain compiled for all devices, and images drawn with it one batch after another.

Image i is drawn from `fold_in(seed, i)` and nothing else, so it is the same whatever the batch size or the number of
devices, up to the rounding of another compiled program. The chain is one scan (`diffusion/samplers/driver.py`), which
the host runs in pieces so that a progress bar can advance and frames can be kept without holding every step. Read
next: `run.py`.
"""

import collections
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from typing import NamedTuple, overload

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from numpy.typing import ArrayLike

from ddpm_jax.config.keys import SEED
from ddpm_jax.diffusion.arrays import image_keys, noise_like, stream
from ddpm_jax.diffusion.samplers import Sampler, SamplerState, StepInfo, advance
from ddpm_jax.diffusion.samplers.driver import IndexedTransitions
from ddpm_jax.diffusion.schedules import Transition
from ddpm_jax.errors import UserError
from ddpm_jax.factory.chains import Settings
from ddpm_jax.factory.models import ParametricDenoiser
from ddpm_jax.runtime.devices import padded, replicated, split, to_host
from ddpm_jax.runtime.images import to_uint8
from ddpm_jax.runtime.progress import progress_bar

_MAX_PIECE = 50  # steps of the chain between two updates of the progress bar


class Frames(NamedTuple):
    """A chain at some of its times, on the host.

    Attributes:
      times: `[F]`, falling, evenly spaced along the steps of the chain or in the log SNR.
      x: `[F, B, H, W, C]` float32, the noisy images at these times, of which the last are the images drawn.
      x_0: `[F, B, H, W, C]` float32, the estimates of x_0 that the sampler made from x; at the end x itself.
      evaluations: how many times the chain evaluated the denoiser.
    """

    times: np.ndarray
    x: np.ndarray
    x_0: np.ndarray
    evaluations: int


class CompiledChain:
    """The programs of a reverse chain for a mesh, which run with any settings and labels.

    Args:
      sampler: function from settings to a `Sampler`.
      denoiser: function `(params, label, settings)` to a `Denoiser`.
      transitions: the N transitions of the chain, leaves `[N]`.
      shape: shape of an image, `(H, W, C)`.
      mesh: the devices; a batch is cut evenly over them.

    Attributes:
      start: the jitted function `(key, indices, settings) -> (keys, state)`.
      take: the jitted function `(params, keys, state, label, indexed, settings) -> (state, info)`, which takes the
        steps of some transitions and consumes the state.
      indexed: the transitions with their indices, float32 on the host.
      times: the times between the steps, `[N + 1]`, falling.
      mesh: as above.
    """

    def __init__(
        self,
        sampler: Callable[[Settings], Sampler],
        denoiser: ParametricDenoiser,
        *,
        transitions: Transition,
        shape: tuple[int, ...],
        mesh: Mesh,
    ) -> None:
        self.mesh, self.times = mesh, np.append(transitions.now.t, np.asarray(transitions.next.t)[-1])
        self.indexed: IndexedTransitions = (
            np.arange(transitions.num_steps),
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
            indexed: IndexedTransitions,
            settings: Settings,
        ) -> tuple[SamplerState, StepInfo]:
            denoise = denoiser(params, label, settings)
            end = advance(sampler(settings), denoise, keys, state=state, indexed=indexed)
            return end.state, end.info

        self.start = jax.jit(start, in_shardings=(whole, cut, whole), out_shardings=cut)
        self.take = jax.jit(
            take,
            in_shardings=(whole, cut, cut, cut, whole, whole),
            out_shardings=(cut, StepInfo._make((cut, whole))),
            donate_argnums=2,
        )


@dataclass(frozen=True)
class Chain:
    """A compiled chain with its settings and labels: `chain(params, key, indices=...)` draws images.

    Attributes:
      compiled: the `CompiledChain`.
      settings: `{name: number}`, inputs of the compiled chain: other numbers compile nothing.
      labels: classes that the images take in turn: image i has `labels[i % len(labels)]`; () for none.
    """

    compiled: CompiledChain
    settings: Settings
    labels: tuple[int, ...] = ()

    @property
    def num_steps(self) -> int:
        """N, the number of steps."""
        return len(self.compiled.indexed[0])

    @property
    def columns(self) -> int | None:
        """The number of columns of a grid in which each class has its own column; None for one class or none."""
        return len(self.labels) if len(self.labels) > 1 else None

    def __call__(
        self,
        params: chex.ArrayTree,
        key: jax.Array,
        *,
        indices: ArrayLike,
        progress: Callable[[int], object] | None = None,
    ) -> np.ndarray:
        """Draws the images of the given indices.

        Args:
          params: parameters, on the mesh.
          key: the root key of the seed.
          indices: `[B]` integers; any B, which is padded to a multiple of the number of devices.
          progress: function called with the number of steps taken since its last call.

        Returns:
          `[B, H, W, C]` float32 on the host.
        """
        states = self._states(params, key, np.asarray(indices), _MAX_PIECE, progress)
        [(state, _)] = collections.deque(states, maxlen=1)
        return to_host(state.x)[: np.size(indices)]

    def frames(
        self,
        params: chex.ArrayTree,
        key: jax.Array,
        *,
        indices: ArrayLike,
        num_frames: int,
        progress: Callable[[int], object] | None = None,
        by_log_snr: bool = False,
    ) -> Frames:
        """Draws the images that a call gives, and keeps at least `num_frames` frames of their chain, if it is so long.

        Args:
          params, key, indices, progress: as for a call.
          num_frames: number of frames, 1 or more, besides the noise from which the chain starts.
          by_log_snr: whether the frames are about evenly spaced in the log SNR instead of along the steps.
        """
        at_most = (
            math.ceil(self.num_steps / num_frames) if not by_log_snr else max(1, self.num_steps // 4 // num_frames)
        )
        lengths = [len(indexed[0]) for indexed in pieces(self.compiled.indexed, at_most=at_most)]
        ends = np.cumsum([0, *lengths])
        kept = np.arange(len(ends))
        if by_log_snr:
            levels = self.compiled.indexed[1].now
            log_snr = np.asarray(levels.log_snr)[ends[:-1]]  # of all but the last, which may be infinite
            kept = np.append(spread_evenly(log_snr, num_frames), kept[-1])
        xs, estimates, evaluations = [], [], 0
        for i, (state, info) in enumerate(self._states(params, key, np.asarray(indices), at_most, progress)):
            if info is not None:
                evaluations += int(info.evaluations)
                estimates += [to_host(info.x_0)] if i - 1 in kept else []
            xs += [to_host(state.x)] if i in kept else []
        x, x_0 = (np.stack(frames)[:, : np.size(indices)] for frames in (xs, [*estimates, xs[-1]]))
        return Frames(self.compiled.times[ends[kept]], x, x_0, evaluations)

    def _states(
        self,
        params: chex.ArrayTree,
        key: jax.Array,
        indices: np.ndarray,
        at_most: int,
        progress: Callable[[int], object] | None,
    ) -> Iterator[tuple[SamplerState, StepInfo | None]]:
        """Yields the first state and None, then the state and the info after each piece of at most so many steps."""
        indices = padded(indices, self.compiled.mesh.size)
        placed, label = jax.device_put((indices, self.label(indices)), split(self.compiled.mesh))
        keys, state = self.compiled.start(key, placed, self.settings)
        yield state, None
        for indexed in pieces(self.compiled.indexed, at_most=at_most):
            state, info = jax.block_until_ready(self.compiled.take(params, keys, state, label, indexed, self.settings))
            if progress:
                progress(len(indexed[0]))
            yield state, info

    def lower(self, params: chex.ArrayTree, *, batch_size: int, platform: str) -> jax.stages.Lowered:
        """A piece of the chain lowered for a platform ("tpu", "cuda", "cpu"), which this machine need not have.

        Args:
          params: parameters or their shapes.
          batch_size: number of images.
          platform: name of the platform.
        """
        indices, indexed = np.arange(batch_size), next(pieces(self.compiled.indexed))
        keys, state = jax.eval_shape(self.compiled.start, jax.random.key(0), indices, self.settings)
        take = self.compiled.take.trace(params, keys, state, self.label(indices), indexed, self.settings)
        return take.lower(lowering_platforms=(platform,))

    def label(self, indices: np.ndarray) -> np.ndarray:
        """The classes `[B]` of the images of these indices `[B]`, integers."""
        labels = np.array(self.labels or (0,), np.int32)
        return labels[indices % len(labels)]


@overload
def draw(
    chain: Chain, params: chex.ArrayTree, *, seed: int, indices: ArrayLike, batch_size: int, sink: None = None
) -> np.ndarray: ...
@overload
def draw(
    chain: Chain,
    params: chex.ArrayTree,
    *,
    seed: int,
    indices: ArrayLike,
    batch_size: int,
    sink: Callable[[np.ndarray, np.ndarray], object],
) -> None: ...
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
    indices, kept, key = np.asarray(indices), [], root_key(seed)
    batches = [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]
    with progress_bar(len(batches) * chain.num_steps, "sampling", unit="step") as bar:
        for batch in batches:
            images = to_uint8(chain(params, key, indices=padded(batch, batch_size), progress=bar.update)[: len(batch)])
            kept.append(images) if sink is None else sink(batch, images)
    return np.concatenate(kept) if sink is None else None


def root_key(seed: int) -> jax.Array:
    """The key `[]` of a seed.

    Raises:
      UserError: the seed does not obey the rule of `config.seed`; another number would repeat the key of one that does.
    """
    if not isinstance(seed, Integral) or not SEED.fits(seed):
        raise UserError(f"seed={seed!r} must be a whole number, {SEED.words.removeprefix('be ')}")
    return jax.random.key(seed)


def pieces(indexed: IndexedTransitions, *, at_most: int = _MAX_PIECE) -> Iterator[IndexedTransitions]:
    """Cuts steps `(index [N], Transition [N])` into pieces of one length, so that a program for them compiles once.

    The length is the largest divisor of N that is at most the limit, the smallest of `at_most`, 50 and N. Where that
    divisor is less than half of the limit, the limit is the length, and the last piece is shorter and compiles again.
    """
    num_steps = len(indexed[0])
    limit = min(at_most, _MAX_PIECE, num_steps)
    length = max(d for d in range(1, limit + 1) if num_steps % d == 0)
    length = length if 2 * length >= limit else limit
    for begin in range(0, num_steps, length):
        yield jax.tree.map(lambda leaf, begin=begin: leaf[begin : begin + length], indexed)


def spread_evenly(values: np.ndarray, num: int) -> np.ndarray:
    """The indices of `num` of the rising values `[N]`, or of all N if they are fewer, about evenly spaced in value.

    The first and the last are among them. Where neighbours are further apart than the spacing, all of them are taken.
    """
    chosen = np.arange(len(values))
    for count in range(num, 100 * num):
        if len(values) <= num:
            break
        targets = np.linspace(values[0], values[-1], count)
        chosen = np.unique(np.abs(values[:, None] - targets).argmin(axis=0))
        if len(chosen) >= num:
            break
    return chosen
