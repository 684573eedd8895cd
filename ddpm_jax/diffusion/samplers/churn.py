"""Deterministic samplers with noise added on the way: EDM's churn and restarts.

A solver of the ODE carries every error on to the end. Some steps of the forward process, which keep the density of the
noisy images, forget a part of it; the solver then takes the image down again. Churn adds a little noise before each
step (Karras et al. 2022), a restart much noise a few times (Xu et al. 2023). Both change any sampler into another.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.diffusion.arrays import Array, Real, expand_like, noise_like
from ddpm_jax.diffusion.continuous import level_of, transition_between
from ddpm_jax.diffusion.gaussian import q_step
from ddpm_jax.diffusion.prediction import Denoiser
from ddpm_jax.diffusion.samplers.driver import Sampler, SamplerState, StepInfo, advance
from ddpm_jax.diffusion.schedules import NoiseLevel, NoiseSchedule, Transition


def churn(
    predictor: Sampler,
    schedule: NoiseSchedule,
    *,
    amount: float | Array,
    noise: float | Array = 1.0,
    low: float | Array = 0.0,
    high: float | Array = jnp.inf,
) -> Sampler:
    r"""Any sampler, whose steps begin with more noise: a part of it is added first (Karras et al. 2022, algorithm 2).

    $$ \hat\sigma = (1 + \gamma)\, \sigma, \qquad
       \hat x = \bar x + S_{\mathrm{noise}} \sqrt{\hat\sigma^2 - \sigma^2}\; z, \qquad z \sim \mathcal{N}(0, I) $$

    with `x_bar = x / signal` and the noise over the signal as sigma, and `gamma = min(S_churn / N, sqrt(2) - 1)`. With
    `noise` 1 this is a step of the forward process, after which the images have the density of the higher level. No
    noise is added where it would rise above the last level of the schedule. A sampler that remembers earlier steps
    forgets them then, because they belong to another solution of the ODE.

    Args:
      predictor: `Sampler`.
      schedule: the `NoiseSchedule` of the chain.
      amount: gamma, at least 0; may be traced.
      noise: S_noise, slightly above 1 to make up for the denoiser's loss of detail.
      low, high: noise is added where sigma is between them (S_tmin and S_tmax).
    """
    last, level_at = float(schedule.log_snr[-1]), level_of(schedule)

    def step(
        denoise: Denoiser, keys: Array, state: SamplerState, transition: Transition
    ) -> tuple[SamplerState, StepInfo]:
        keys, now = jax.vmap(jax.random.split)(keys), transition.now
        sigma = now.sigma / now.signal
        log_snr = now.log_snr - 2 * jnp.log1p(amount)
        adds = (sigma >= low) & (sigma <= high) & jnp.asarray(amount > 0)
        adds &= (now.t < schedule.num_timesteps) & (log_snr >= last)
        more = level_at(jnp.where(adds, log_snr, 0))
        up = _rise(state.x, keys[:, 1], now, more, noise)
        longer = transition_between(more, transition.next)._replace(left=jnp.asarray(transition.left))
        changed = jax.tree.map(lambda b, a: jnp.where(adds, b, a), longer, transition)
        state = jax.tree.map(lambda b, a: jnp.where(adds, b, a), predictor.init(up), state)
        return predictor.step(denoise, keys[:, 0], state, changed)

    return Sampler(predictor.init, step)


def restart(
    predictor: Sampler,
    schedule: NoiseSchedule,
    *,
    num_restarts: int | Array = 2,
    low: float = 0.06,
    high: float = 0.3,
    num_steps: int = 5,
) -> Sampler:
    r"""Any sampler, which returns from little noise to more and comes down again (Xu et al. 2023, algorithm 1).

    After the step that first ends at a `sigma / signal` of at most `low`, noise is added up to `high`, and the sampler
    removes it in `num_steps` steps, evenly spaced in log-SNR. This is done `num_restarts` times.

    Args:
      predictor: `Sampler`.
      schedule: the `NoiseSchedule` of the chain.
      num_restarts: K of the paper.
      low, high: the ends of the interval, as sigma over signal.
      num_steps: N_restart, the number of steps that remove the noise again.

    Raises:
      ValueError: the interval is empty or does not lie within the levels of the schedule.
    """
    ends = schedule.level([1, schedule.num_timesteps])
    with np.errstate(divide="ignore"):
        smallest, largest = np.divide(ends.sigma, ends.signal)
    if not smallest <= low < high <= largest:
        raise ValueError(f"a restart needs {smallest:.3g} <= low < high <= {largest:.3g}, got {low:g} and {high:g}")
    level_at = level_of(schedule)

    def step(
        denoise: Denoiser, keys: Array, state: SamplerState, transition: Transition
    ) -> tuple[SamplerState, StepInfo]:
        keys = jax.vmap(jax.random.split)(keys)
        state, info = predictor.step(denoise, keys[:, 0], state, transition)
        info = info._replace(evaluations=jnp.asarray(info.evaluations, jnp.int32))
        begin, end = transition.now, transition.next
        crosses = (end.t > 0) & (begin.sigma > low * begin.signal) & (end.sigma <= low * end.signal)
        top = level_at(jnp.full_like(begin.log_snr, -2 * math.log(high)))
        levels = level_at(jnp.linspace(top.log_snr, end.log_snr, num_steps + 1))
        levels = jax.tree.map(lambda way, last: way.at[-1].set(last), levels, end)
        part = lambda cut: jax.tree.map(lambda leaf: leaf[cut], levels)
        indexed = jnp.arange(num_steps), transition_between(part(slice(-1)), part(slice(1, None)))

        def again(k: Array, before: tuple[SamplerState, Array]) -> tuple[SamplerState, Array]:
            state, evaluations = before
            own = jax.vmap(jax.random.fold_in, (0, None))(keys[:, 1], k)
            own = jax.vmap(jax.random.split)(own)
            state = predictor.init(_rise(state.x, own[:, 0], end, top, 1.0))
            down = advance(predictor, denoise, own[:, 1], state=state, indexed=indexed)
            return down.state, evaluations + down.info.evaluations

        turns = jnp.where(crosses, num_restarts, 0)
        state, evaluations = jax.lax.fori_loop(0, turns, again, (state, info.evaluations))
        return state, info._replace(evaluations=evaluations)

    return Sampler(predictor.init, step)


def _rise(x: Array, keys: Array, low: NoiseLevel, high: NoiseLevel, noise: Real) -> Array:
    """The images after the forward process from a level to a higher one, with its noise multiplied by `noise`."""
    step = transition_between(high, low)
    z = expand_like(jnp.asarray(noise, x.dtype), x) * noise_like(keys, x)
    return q_step(x, z, step)
