r"""Students that know where a step ends: the average velocity of a step, learned without the step being taken.

*MeanFlow* ([Geng et al. 2025](https://arxiv.org/abs/2505.13447)) regresses the mean of the ODE's velocity between two
times, so that one evaluation takes the whole step between them. On the straight path, of which every Gaussian path is a
rescaling, with `y = x_t / (signal + sigma)` and the share of noise `s = sigma / (signal + sigma)`, the step from s to r
ends at `y_r = y_s - (s - r) u`. A network predicts u as its estimate of `eps - x_0`; with its x_0 and eps the end is
`signal_r x_0 + sigma_r eps`, which is a step of DDIM. Read next: `samplers/mean_flow.py`, which takes such steps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ddpm_jax.diffusion.arrays import AnyArray, Array, expand_like, noise_like
from ddpm_jax.diffusion.continuous import on_straight_path, transition_between, transitions_at
from ddpm_jax.diffusion.distillation import TaughtLoss
from ddpm_jax.diffusion.gaussian import q_sample
from ddpm_jax.diffusion.prediction import Denoiser
from ddpm_jax.diffusion.schedules import NoiseLevel, NoiseSchedule, Transition

AverageVelocity: TypeAlias = Callable[[Array, Array, Array], Array]
"""A function from points y `[B, ...]` on the straight path, their shares of noise s `[B]`, and the times `[B]` of the
schedule at which steps from them end, to the average velocity `[B, ...]` of these steps."""


@dataclass(frozen=True, eq=False)
class Spans:
    """The curriculum of MeanFlow: steps between two times, and for three of four images of no length.

    Without the latter nothing would say what the velocity at a time is (Geng et al. 2025, section 4.3 and table 1a).

    Attributes:
      schedule: the noise schedule.
      every: one of so many images has a step of some length; its two times are its own and that of the image before.
    """

    schedule: NoiseSchedule
    every: int = 4

    def stage(self, step: ArrayLike) -> Array:
        """The number of the stage `[]`, which is 0 after any number of train steps `[]`."""
        return jnp.zeros_like(jnp.asarray(step))

    def transition(self, times: AnyArray, step: ArrayLike) -> Transition:
        """The steps `[B]` from the later to the earlier of two times, made of the times `[B]` of a batch."""
        times = jnp.asarray(times, jnp.result_type(float))
        others = jnp.where(jnp.arange(len(times)) % self.every == 0, jnp.roll(times, 1), times)
        table = self.schedule.transitions()
        later, earlier = (transitions_at(table, pick(times, others)).now for pick in (jnp.maximum, jnp.minimum))
        return transition_between(later, earlier)


def average_velocity(denoise: Denoiser, level_of: Callable[[Array], NoiseLevel]) -> AverageVelocity:
    """The average velocity that a network predicts, whose levels say where a step ends.

    Args:
      denoise: `Denoiser`.
      level_of: function from shares of noise to levels, from `on_straight_path`.
    """

    def velocity(point: Array, share: Array, until: Array) -> Array:
        level = level_of(share)._replace(until=until)
        prediction = denoise(point * expand_like(level.signal + level.sigma, point), level)
        return prediction.eps - prediction.x_0

    return velocity


def mean_flow_error(average: AverageVelocity, velocity: AnyArray, point: Array, transition: Transition) -> Array:
    r"""How far an average velocity is from the one that it implies along the flow, `[B, ...]`.

    $$ \Delta = u(y_s, s, r) - \mathrm{sg}\left[ v - (s - r) \left( v\, \partial_y u + \partial_s u \right) \right] $$

    [Geng et al. 2025](https://arxiv.org/abs/2505.13447), eq. 6 and 11; sg is without a gradient. The derivative along
    the flow is one product with the Jacobian, `jax.jvp`.

    Args:
      average: `AverageVelocity` u.
      velocity: v, `[B, ...]`, of the straight path at these points: eps - x_0 of one image, or its mean.
      point: y, `[B, ...]`.
      transition: the steps, `[B]`.
    """
    shares = [level.sigma / (level.signal + level.sigma) for level in (transition.now, transition.next)]
    shares = [jnp.broadcast_to(jnp.asarray(share, point.dtype), point.shape[:1]) for share in shares]
    until = jnp.broadcast_to(jnp.asarray(transition.next.t, point.dtype), point.shape[:1])
    velocity = jnp.asarray(velocity, point.dtype)
    u, change = jax.jvp(lambda y, s: average(y, s, until), (point, shares[0]), (velocity, jnp.ones_like(shares[0])))
    target = velocity - expand_like(shares[0] - shares[1], point) * change
    return u - jax.lax.stop_gradient(target)


def l_mean_flow(
    schedule: NoiseSchedule, *, power: float = 1.0, offset: float = 1e-3, guidance_scale: float = 1.0
) -> TaughtLoss:
    r"""The loss of MeanFlow with the velocity of single images.

    $$ L = \mathbb{E}\left[ \frac{\|\Delta\|^2}{\mathrm{sg}\left[ (\|\Delta\|^2 + c)^p \right]} \right] $$

    [Geng et al. 2025](https://arxiv.org/abs/2505.13447), eq. 9 to 11 and section 4.3, with `mean_flow_error` for Delta
    and `v = eps - x_0`. At the exact average velocity the expected gradient of the squared error is zero.

    With a guidance scale w, `v = w (eps - x_0) + (1 - w) u(y_s, s, s)` without the class, whose mean is the velocity of
    the guided flow (section 4.2): the student draws as with that scale, in one evaluation per step.

    Args:
      schedule: the noise schedule.
      power: p; 0 for the squared error itself.
      offset: c.
      guidance_scale: w, as for `classifier_free`; 1 for none.

    Returns:
      A `TaughtLoss` with the terms "loss" and "velocity_mse", the mean square of Delta. Its teacher is the student
      itself without the class, and is not evaluated if the scale is 1.
    """
    level_of = on_straight_path(schedule)

    def loss(
        denoise: Denoiser, teacher: Denoiser, x_0: AnyArray, keys: Array, transition: Transition
    ) -> dict[str, Array]:
        now, eps = transition.now, noise_like(keys, x_0)
        x_t = q_sample(x_0, eps, now)
        point = x_t / expand_like(now.signal + now.sigma, x_t)
        velocity = eps - x_0
        if guidance_scale != 1:
            without = teacher(x_t, now)
            velocity = guidance_scale * velocity + (1 - guidance_scale) * (without.eps - without.x_0)
        error = mean_flow_error(average_velocity(denoise, level_of), velocity, point, transition)
        square = jnp.sum(error**2, axis=range(1, error.ndim))
        weight = jax.lax.stop_gradient((square + offset) ** -power)
        return {"loss": weight * square, "velocity_mse": square / error[0].size}

    return loss
