"""RePaint: filling in part of an image with a model that was never trained for it (Lugmayr et al. 2022).

At each level the known part is replaced by the known image, noised to that level. What is drawn beside it has not seen
it yet, so each move is taken several times: down, noised up again, down. Any sampler can make the moves.
"""

import jax
import jax.numpy as jnp

from ddpm_jax.diffusion.arrays import expand_like, noise_like
from ddpm_jax.diffusion.gaussian import q_sample
from ddpm_jax.diffusion.samplers.driver import Sampler


def repaint(predictor, image, known, *, num_resamples=10):
    """Any sampler, held to the known part of an image (Lugmayr et al. 2022, algorithm 1).

    Args:
      predictor: `Sampler`.
      image: `[H, W, C]` in [-1, 1], or `[B, H, W, C]`.
      known: 1 where the image is given and 0 where it is to be drawn, broadcasting against it.
      num_resamples: times that each move is taken, U of the paper; 1 only replaces.
    """

    def step(denoise, keys, state, transition):
        image_like = jnp.broadcast_to(jnp.asarray(image, state.x.dtype), state.x.shape)

        def held(i, state):
            down, known_noise = _two(keys, 2 * i)
            moved = predictor.step(denoise, down, state, transition)
            given = q_sample(image_like, noise_like(known_noise, state.x), transition.next)
            return moved._replace(x=known * given + (1 - known) * moved.x)

        def again(i, state):
            """Up to where the move began, by the forward process, and down once more."""
            (up, _), beta = _two(keys, 2 * i - 1), expand_like(transition.beta, state.x)
            x = jnp.sqrt(1 - beta) * state.x + jnp.sqrt(beta) * noise_like(up, state.x)
            return held(i, predictor.init(x))

        # The last move ends in the image itself: there is nothing to harmonise with after it.
        turns = jnp.where(transition.next.t > 0, num_resamples, 1)
        return jax.lax.fori_loop(1, turns, again, held(0, state))

    return Sampler(predictor.init, step)


def _two(keys, i):
    """Two keys an image, `([B], [B])`, the i-th pair."""
    pairs = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, i)))(keys)
    return pairs[:, 0], pairs[:, 1]
