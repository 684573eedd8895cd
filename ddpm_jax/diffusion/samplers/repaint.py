"""RePaint: filling in part of an image with a model that was not trained for it (Lugmayr et al. 2022).

At each level the known part is replaced by the known image, noised to that level. The drawn part does not yet depend on
it, so each step is repeated several times, with the forward process back to its start in between. Any sampler can take
the steps.
"""

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.arrays import AnyArray, Array, Real, noise_like
from ddpm_jax.diffusion.gaussian import q_sample, q_step
from ddpm_jax.diffusion.prediction import Denoiser
from ddpm_jax.diffusion.samplers.driver import Sampler, SamplerState, StepInfo
from ddpm_jax.diffusion.schedules import Transition


def repaint(predictor: Sampler, image: AnyArray, known: Real, *, num_resamples: int | Array = 10) -> Sampler:
    """Any sampler, constrained to the known part of an image (Lugmayr et al. 2022, algorithm 1).

    With many repetitions and a predictor of small steps the mean is exact. The spread is exact for ancestral sampling
    with the large variance; with the small one it is too small, and with DDIM in between (`docs/agreement.md`).

    Args:
      predictor: `Sampler`.
      image: `[H, W, C]` in [-1, 1], or `[B, H, W, C]`.
      known: 1 where the image is given and 0 where it should be drawn, broadcastable against the image.
      num_resamples: how often each step is taken, U of the paper; 1 only replaces the known part.
    """

    def step(
        denoise: Denoiser, keys: Array, state: SamplerState, transition: Transition
    ) -> tuple[SamplerState, StepInfo]:
        image_like = jnp.broadcast_to(jnp.asarray(image, state.x.dtype), state.x.shape)

        def held(i: int | Array, state: SamplerState) -> tuple[SamplerState, StepInfo]:
            down, known_noise = _two(keys, 2 * i)
            moved, info = predictor.step(denoise, down, state, transition)
            given = q_sample(image_like, noise_like(known_noise, state.x), transition.next)
            info = info._replace(evaluations=jnp.asarray(info.evaluations, jnp.int32))
            return moved._replace(x=jnp.multiply(known, given) + (1 - known) * moved.x), info

        def again(i: Array, before: tuple[SamplerState, StepInfo]) -> tuple[SamplerState, StepInfo]:
            """Returns to the start of the step by the forward process, and takes the step again."""
            state, info = before
            up, _ = _two(keys, 2 * i - 1)
            x = q_step(state.x, noise_like(up, state.x), transition)
            state, latest = held(i, predictor.init(x))
            return state, info._replace(evaluations=info.evaluations + latest.evaluations)

        # The last step ends in the image itself, so that a repetition could not improve the agreement of the two parts.
        turns = jnp.where(transition.next.t > 0, num_resamples, 1)
        return jax.lax.fori_loop(1, turns, again, held(0, state))

    return Sampler(predictor.init, step)


def _two(keys: Array, i: int | Array) -> tuple[Array, Array]:
    """The i-th pair of keys per image, `([B], [B])`."""
    pairs = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, i)))(keys)
    return pairs[:, 0], pairs[:, 1]
