"""Langevin dynamics: walking up the score and shaking, which in the limit of small steps samples the density itself.

One noising step of the forward process is such a step on the standard normal, whose score is -x:
`sqrt(1 - beta) x = x + beta/2 (-x) + O(beta**2)`. With a network's score it samples the noisy data: alone, level
after level (`annealed_langevin`), or to correct what any other sampler has done (`langevin_corrector`).
"""

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.arrays import expand_like, noise_like
from ddpm_jax.diffusion.prediction import score
from ddpm_jax.diffusion.samplers.driver import Sampler, SamplerState


def langevin_step(x, slope, keys, *, delta):
    """`x + delta/2 grad log p(x) + sqrt(delta) z`: one step of unadjusted Langevin dynamics.

    Args:
      x: `[B, ...]`.
      slope: `grad log p(x)` `[B, ...]`.
      keys: `[B]` keys, one an image.
      delta: step size, above 0; `[]` or `[B]`.
    """
    delta = expand_like(jnp.asarray(delta, x.dtype), x)
    return x + delta / 2 * slope + jnp.sqrt(delta) * noise_like(keys, x)


def langevin_corrector(predictor, *, snr=0.16, num_steps=1):
    """Any sampler, followed at each new level by Langevin steps (Song et al. 2021, algorithm 5, predictor-corrector).

    The step is `delta = 4 (1 - beta) (snr sigma)**2`. Algorithm 5 has `|z| / |score|`, measured, in place of sigma, its
    expected value for a score of -eps / sigma; but a step that depends on the noise it takes does not keep the density.
    At s = 0 nothing is corrected.

    Args:
      predictor: `Sampler`.
      snr: signal-to-noise ratio of a step, the slope's part in it over the noise's.
      num_steps: Langevin steps after each move.
    """

    def step(denoise, keys, state, transition):
        keys = jax.vmap(jax.random.split)(keys)
        state = predictor.step(denoise, keys[:, 0], state, transition)
        level = transition.next
        delta = 4 * (1 - transition.beta) * (snr * level.sigma) ** 2

        def correct(i, x):
            step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys[:, 1], i)
            return langevin_step(x, score(denoise(x, level), level), step_keys, delta=delta)

        def corrected():
            return jax.lax.fori_loop(0, num_steps, correct, state.x)

        return state._replace(x=jax.lax.cond(level.t > 0, corrected, lambda: state.x))

    return Sampler(predictor.init, step)


def annealed_langevin(*, step_size=0.5, num_steps=5):
    """Langevin dynamics at every level in turn, from coarse to fine (Song & Ermon 2019, algorithm 1).

    Args:
      step_size: delta over `sigma**2` of the level.
      num_steps: Langevin steps at each level.
    """

    def step(denoise, keys, state, transition):
        now, next = transition.now, transition.next

        def walk(i, x):
            step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
            return langevin_step(x, score(denoise(x, now), now), step_keys, delta=step_size * now.sigma**2)

        x = jax.lax.fori_loop(0, num_steps, walk, state.x)
        # The next level is narrower and larger by the ratio of the signals; at the end the last noise is taken off.
        x = jax.lax.cond(next.t > 0, lambda: next.signal / now.signal * x, lambda: denoise(x, now).x_0)
        return SamplerState(x)

    return Sampler(SamplerState, step)
