r"""Students: denoisers of few steps, which learn from a trained one, their teacher.

*Progressive distillation* ([Salimans & Ho 2022](https://arxiv.org/abs/2202.00512), algorithm 2) halves the steps of
a deterministic chain: a student learns to do in one step of DDIM what its teacher does in two. Then the student becomes
the teacher, and the next stage begins. A stage may divide the steps by another number too: with fewer stages fewer
errors add up, and a stage with all steps of the teacher in one is the distillation of [Luhman & Luhman
2021](https://arxiv.org/abs/2101.02388), on noisy images.

*Easy consistency tuning* ([Geng et al. 2024](https://arxiv.org/abs/2406.14548)) starts from a trained denoiser and
makes its estimates equal all along a trajectory of the ODE: the estimate at t learns that of the student itself at an
earlier time r, of the same image and noise. The gap between them narrows from stage to stage.

A `Curriculum` says what a student learns after so many train steps. Read next: `training/step.py`, which trains one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ddpm_jax.diffusion.arrays import AnyArray, Array, expand_like, noise_like
from ddpm_jax.diffusion.continuous import level_of, transition_between, transitions_at
from ddpm_jax.diffusion.gaussian import q_sample
from ddpm_jax.diffusion.prediction import Denoiser, eps_from_x_0
from ddpm_jax.diffusion.schedules import NoiseLevel, NoiseSchedule, Transition

HUBER = 0.00054
"""The constant c of the pseudo-Huber distance over the root of the number of pixels and channels, as in iCT."""

TaughtLoss: TypeAlias = Callable[[Denoiser, Denoiser, AnyArray, Array, Transition], dict[str, Array]]
"""A function `(denoise, teacher, x_0, keys, transition) -> {name: [B]}`, of whose terms "loss" is minimised."""


class Curriculum(Protocol):
    """What a student learns after so many train steps."""

    def stage(self, step: ArrayLike) -> Array:
        """The number of the stage `[]`, from 0, after so many train steps `[]`."""
        ...

    def transition(self, times: AnyArray, step: ArrayLike) -> Transition:
        """The transitions `[B]` that are learned for times `[B]` as a `TimeSampler` draws them."""
        ...


@dataclass(frozen=True, eq=False)
class Shortening:
    """The curriculum of progressive distillation: from stage to stage the student's chain has fewer steps.

    Attributes:
      chains: the transitions of the first teacher's chain, then those of the student's in each stage, leaves `[N]`,
        from `NoiseSchedule.transitions`.
      length: train steps of a stage; the last stage lasts until the training ends.
      teacher_steps: steps of the teacher's chain in one of the student's.

    Raises:
      ValueError: the times of a chain are not every so many-th time of the one before it.
    """

    chains: tuple[Transition, ...]
    length: int
    teacher_steps: int = 2

    def __post_init__(self) -> None:
        every = self.teacher_steps
        for teacher, student in zip(self.chains, self.chains[1:], strict=False):
            if not np.array_equal(np.asarray(teacher.now.t)[::every], np.asarray(student.now.t)):
                raise ValueError(f"the times of a student's chain must be one in {every} of its teacher's, from T on")

    def stage(self, step: ArrayLike) -> Array:
        """The number of the stage `[]`, from 0, after so many train steps `[]`."""
        return jnp.minimum(jnp.asarray(step) // self.length, len(self.chains) - 2)

    def longest_stage(self, num_steps: int) -> int:
        """The largest number of train steps of one stage in a training of so many steps."""
        before_last = self.length * (len(self.chains) - 2)
        return max(min(self.length, num_steps), num_steps - before_last)

    def transition(self, times: AnyArray, step: ArrayLike) -> Transition:
        """The steps `[B]` of the student's chain in which these times `[B]` lie, the end of a step excluded."""
        most = self.chains[1].num_steps
        stack = lambda *leaves: np.stack([np.append(leaf, np.zeros(most - len(leaf))) for leaf in leaves])
        stage = self.stage(step)
        chain = jax.tree.map(lambda leaf: jnp.asarray(leaf)[stage], jax.tree.map(stack, *self.chains[1:]))
        place = jnp.sum(chain.now.t >= jnp.asarray(times)[:, None], axis=1) - 1
        return jax.tree.map(lambda leaf: leaf[place], chain)

    def within(self, transition: Transition) -> NoiseLevel:
        """The levels `[teacher_steps - 1, B]` at which a teacher divides steps `[B]` of its student."""
        first = self.chains[0]
        levels = jax.tree.map(lambda now, next: jnp.asarray(np.append(now, next[-1])), first.now, first.next)
        begin, end = (
            jnp.sum(levels.t > jnp.asarray(t)[:, None], axis=1) for t in (transition.now.t, transition.next.t)
        )
        share = jnp.arange(1, self.teacher_steps)[:, None]
        return jax.tree.map(lambda leaf: leaf[begin + share * (end - begin) // self.teacher_steps], levels)


@dataclass(frozen=True, eq=False)
class Narrowing:
    r"""The curriculum of easy consistency tuning: from stage to stage the gap between t and an earlier r is halved.

    With `u = sigma / signal`, in stage a from 1 on,

    $$ u_r = u_t\, \max\left( 0,\ 1 - \frac{n(u_t)}{2^a} \right), \qquad n(u) = 1 + 8\, \mathrm{sigmoid}(-u) $$

    ([Geng et al. 2024](https://arxiv.org/abs/2406.14548), section 3 and appendix A: q = 2, k = 8, b = 1). What has
    less noise than the first time of the schedule counts as the clean image, at which consistency training is the
    training of a denoiser.

    Attributes:
      schedule: the noise schedule.
      length: train steps of a stage.
    """

    schedule: NoiseSchedule
    length: int

    def stage(self, step: ArrayLike) -> Array:
        """The number of the stage `[]`, from 0, after so many train steps `[]`."""
        return jnp.asarray(step) // self.length

    def transition(self, times: AnyArray, step: ArrayLike) -> Transition:
        """The transitions `[B]` from times `[B]` to the earlier levels whose estimates are learned."""
        times = jnp.asarray(times, jnp.result_type(float))
        now = transitions_at(self.schedule.transitions(), times).now
        u = now.sigma / now.signal
        share = (1 + 8 * jax.nn.sigmoid(-u)) / 2.0 ** (self.stage(step) + 1)
        last, first = self.schedule.log_snr_ends
        some = jnp.maximum(now.log_snr, last)  # pure noise has a finite gap too
        earlier = level_of(self.schedule)(some - 2 * jnp.log1p(-jnp.minimum(share, 1)))
        clean = (share >= 1) | (earlier.log_snr > first)
        next = jax.tree.map(lambda leaf, end: jnp.where(clean, end, leaf), earlier, NoiseLevel(0.0, 1.0, 0.0))
        return transition_between(now, next)


def several_steps(teacher: Denoiser, x_t: AnyArray, transition: Transition, within: NoiseLevel) -> Array:
    r"""The estimate of x_0 with which one step of DDIM ends where several of the teacher end, `[B, ...]`.

    Let `lambda = log(signal / sigma)`, and let one step with the estimate `x~_m` end where the teacher's steps from t
    to m end. With the teacher's estimate at m, one step ends where those from t to the next level s end if it has the
    estimate

    $$ \tilde x_s = w\, \hat x(x_m, m) + (1 - w)\, \tilde x_m, \qquad
       w = \frac{1 - e^{\lambda_m - \lambda_s}}{1 - e^{\lambda_t - \lambda_s}} $$

    For two steps this is the target of [Salimans & Ho 2022](https://arxiv.org/abs/2202.00512), algorithm 2,
    `(x_s - (sigma_s / sigma_t) x_t) / (signal_s - (sigma_s / sigma_t) signal_t)`, in a form that subtracts no images:
    a mean of the teacher's estimates, which of a step to the clean image is the last one.

    Args:
      teacher: `Denoiser`.
      x_t: `[B, ...]`.
      transition: the step t -> s of the student, leaves `[B]`.
      within: the levels between them at which the teacher's steps meet, leaves `[n, B]`, from t to s.
    """
    now, x_t = transition.now, jnp.asarray(x_t)

    def later(x_0: Array, steps: tuple[NoiseLevel, NoiseLevel]) -> tuple[Array, None]:
        begin, end = steps
        at_begin = teacher(q_sample(x_0, eps_from_x_0(x_0, x_t, now), begin), begin)
        share = lambda level: jnp.expm1((level.log_snr - end.log_snr) / 2)
        w = expand_like(share(begin) / share(now), x_0)
        return w * at_begin.x_0 + (1 - w) * x_0, None

    ends = jax.tree.map(lambda leaf, last: jnp.concatenate([leaf[1:], last[None]]), within, transition.next)
    return jax.lax.scan(later, teacher(x_t, now).x_0, (within, ends))[0]


def l_progressive(within: Callable[[Transition], NoiseLevel], *, huber: float = 0.0) -> TaughtLoss:
    r"""The loss of progressive distillation: the squared error of v from that of several steps of the teacher.

    $$ L = \mathbb{E}_{t, x_0, \epsilon}\left[ \frac{1}{\sigma_t^2}\, \| \tilde x - \hat x_\eta(x_t, t) \|^2 \right] $$

    [Salimans & Ho 2022](https://arxiv.org/abs/2202.00512), algorithm 2 with the weight "SNR + 1" of section 4, which
    is `1 / sigma_t**2` and gives pure noise a weight too; the norm is the mean over the pixels. At its minimum, 0, a
    step of the student's DDIM is several steps of the teacher's.

    With `sqrt(m + c^2) - c` in place of the weighted squared error m, a pseudo-Huber distance ([Song & Dhariwal
    2024](https://arxiv.org/abs/2310.14189), section 3.3), the loss is 0 at the same student, and images on which a
    student errs far count for less.

    Args:
      within: function from the steps `[B]` of the student to the levels `[n, B]` at which the teacher divides them.
      huber: c; 0 for the squared error.

    Returns:
      A `TaughtLoss` with the terms "loss" and "x_0_mse", the error without the weight.
    """

    def loss(
        denoise: Denoiser, teacher: Denoiser, x_0: AnyArray, keys: Array, transition: Transition
    ) -> dict[str, Array]:
        now = transition.now
        x_t = q_sample(x_0, noise_like(keys, x_0), now)
        target = jax.lax.stop_gradient(several_steps(teacher, x_t, transition, within(transition)))
        error = jnp.mean((denoise(x_t, now).x_0 - target) ** 2, axis=range(1, x_t.ndim))
        square = error / now.sigma**2
        return {"loss": jnp.sqrt(square + huber**2) - huber if huber else square, "x_0_mse": error}

    return loss


def l_consistency(huber: float = HUBER) -> TaughtLoss:
    r"""The loss of consistency training: the distance of the estimates at t and at r < t, of the same image and noise.

    $$ L = \mathbb{E}\left[ \frac{\sqrt{\| \hat x_\theta(x_t, t) - \hat x_{\theta^-}(x_r, r) \|^2 + c^2} - c}{u_t - u_r}
       \right], \qquad u = \frac{\sqrt{1 - \bar\alpha}}{\sqrt{\bar\alpha}} $$

    [Geng et al. 2024](https://arxiv.org/abs/2406.14548), section 3, with the pseudo-Huber distance of [Song & Dhariwal
    2024](https://arxiv.org/abs/2310.14189), section 3.3, `c = 0.00054 sqrt(D)` for D pixels and channels. The student
    itself, without a gradient, is the teacher. As r approaches t, the minimum approaches the flow map of the ODE.

    Args:
      huber: c over `sqrt(D)`.

    Returns:
      A `TaughtLoss` with the terms "loss" and "x_0_mse", the mean square of the distance, without the weight.
    """

    def loss(
        denoise: Denoiser, teacher: Denoiser, x_0: AnyArray, keys: Array, transition: Transition
    ) -> dict[str, Array]:
        now, next, eps = transition.now, transition.next, noise_like(keys, x_0)
        earlier = teacher(q_sample(x_0, eps, next), next).x_0
        target = jnp.where(expand_like(next.sigma == 0, earlier), x_0, earlier)
        return consistency_error(denoise(q_sample(x_0, eps, now), now).x_0, target, transition, huber=huber)

    return loss


def consistency_error(estimate: Array, target: AnyArray, transition: Transition, *, huber: float) -> dict[str, Array]:
    """The terms `[B]` of `l_consistency` from the estimates `[B, ...]` at both ends of transitions `[B]`."""
    error = (estimate - jax.lax.stop_gradient(target)) ** 2
    square, c = jnp.sum(error, axis=range(1, error.ndim)), huber * error[0].size ** 0.5
    gap = transition.now.sigma / transition.now.signal - transition.next.sigma / transition.next.signal
    return {"loss": (jnp.sqrt(square + c**2) - c) / gap, "x_0_mse": square / error[0].size}
