"""Langevin dynamics: steps along the score with added noise, which sample the density in the limit of small steps.

One noising step of the forward process is such a step for the standard normal distribution, whose score is -x:
`sqrt(1 - beta) x = x + beta/2 (-x) + O(beta**2)`. With a network's score it samples the noisy data: alone, level
after level (`annealed_langevin`), or as a correction after each step of another sampler (`langevin_corrector`).
"""

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.arrays import AnyArray, Array, Real, expand_like, noise_like
from ddpm_jax.diffusion.prediction import Denoiser, score
from ddpm_jax.diffusion.samplers.driver import Sampler, SamplerState, StepInfo
from ddpm_jax.diffusion.schedules import Transition


def langevin_step(x: AnyArray, gradient: AnyArray, keys: Array, *, delta: Real) -> Array:
    r"""`x + delta/2 grad log p(x) + sqrt(delta) z`: one step of unadjusted Langevin dynamics.

    $$ x_{k+1} = x_k + \frac{\delta}{2} \nabla_x \log p(x_k) + \sqrt{\delta}\, z, \qquad z \sim \mathcal{N}(0, I) $$

    [Song & Ermon 2019](https://arxiv.org/abs/1907.05600), eq. 4.

    Args:
      x: `[B, ...]`.
      gradient: the score, `grad log p(x)` `[B, ...]`.
      keys: `[B]` keys, one per image.
      delta: step size, above 0; `[]` or `[B]`.
    """
    delta = expand_like(jnp.asarray(delta, x.dtype), x)
    return jnp.add(x, delta / 2 * gradient) + jnp.sqrt(delta) * noise_like(keys, x)


def langevin_corrector(predictor: Sampler, *, snr: float | Array = 0.16, num_steps: int = 1) -> Sampler:
    """Any sampler, with Langevin steps at each new level (Song et al. 2021, algorithm 5, predictor-corrector).

    The step size is `delta = 4 (1 - beta) (snr sigma)**2`. Algorithm 5 measures `|z| / |score|` in place of sigma,
    which is its expected value for a score of -eps / sigma; but a step size that depends on the noise of the same step
    does not preserve the density. No correction is made at s = 0.

    Args:
      predictor: `Sampler`.
      snr: signal-to-noise ratio of a Langevin step, the norm of its score term over the norm of its noise.
      num_steps: Langevin steps after each step of the sampler.
    """

    def step(
        denoise: Denoiser, keys: Array, state: SamplerState, transition: Transition
    ) -> tuple[SamplerState, StepInfo]:
        keys = jax.vmap(jax.random.split)(keys)
        state, info = predictor.step(denoise, keys[:, 0], state, transition)
        level = transition.next
        delta = 4 * (1 - transition.beta) * (snr * level.sigma) ** 2

        def correct(i: Array, x: Array) -> Array:
            step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys[:, 1], i)
            return langevin_step(x, score(denoise(x, level), level), step_keys, delta=delta)

        def corrected() -> Array:
            return jax.lax.fori_loop(0, num_steps, correct, state.x)

        info = info._replace(evaluations=info.evaluations + jnp.where(level.t > 0, num_steps, 0))
        return state._replace(x=jax.lax.cond(level.t > 0, corrected, lambda: state.x)), info

    return Sampler(predictor.init, step)


def annealed_langevin(*, step_size: float = 0.5, num_steps: int = 5) -> Sampler:
    """Langevin dynamics at one level after another, from high noise to low (Song & Ermon 2019, algorithm 1).

    Args:
      step_size: ratio of delta to `sigma**2` of the level.
      num_steps: Langevin steps at each level.
    """

    def step(
        denoise: Denoiser, keys: Array, state: SamplerState, transition: Transition
    ) -> tuple[SamplerState, StepInfo]:
        now, next = transition.now, transition.next

        def walk(i: Array, walked: tuple[Array, Array]) -> tuple[Array, Array]:
            x, first = walked
            step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
            prediction = denoise(x, now)
            x = langevin_step(x, score(prediction, now), step_keys, delta=step_size * now.sigma**2)
            return x, jnp.where(i == 0, prediction.x_0, first)

        x, x_0 = jax.lax.fori_loop(0, num_steps, walk, (state.x, jnp.zeros_like(state.x)))
        # The scale of the next level is larger by the ratio of the signals; at the end the remaining noise is removed.
        x = jax.lax.cond(next.t > 0, lambda: next.signal / now.signal * x, lambda: denoise(x, now).x_0)
        return SamplerState(x), StepInfo(x_0, jnp.where(next.t > 0, num_steps, num_steps + 1))

    return Sampler(SamplerState, step)
