"""Students of a small network, and their teachers, as the tests of students train them."""

import jax.numpy as jnp
from flax import linen as nn

from ddpm_jax import factory
from ddpm_jax.jobs.train import train
from support.tiny import given_config

OF_BOTH = {"diffusion__target": "v", "diffusion__num_timesteps": 16}
STUDENT = {
    **OF_BOTH,
    "task": "distil",
    "loss__times": "uniform",
    "distil__first_steps": 4,
    "distil__stage_steps": 3,
    "train__num_steps": 9,
    "optim__warmup_steps": 2,
    "sample__sampler": "ddim",
    "sample__num_steps": 1,
    "sample__clip_x_0": False,
}


class Small(nn.Module):
    """A network that compiles at once."""

    @nn.compact
    def __call__(self, x_t, index, label, train=False):
        """The target `[B, H, W, C]`, from x_t, the time and the label."""
        bias = nn.Dense(1)(jnp.sin(index[:, None] * jnp.array([0.1, 0.7])) + label[:, None])
        return nn.Dense(x_t.shape[-1])(x_t) + bias[:, None, None]


def teaching_run(workdir, **settings):
    """The run of a denoiser whose averaged parameters are not the last ones; returns its directory."""
    config = given_config(
        **{**OF_BOTH, **settings}, optim__warmup_steps=0, optim__learning_rate=0.1, train__num_steps=3
    )
    config.data.on_device = True
    train(config, workdir, network=Small())
    return workdir


def student(teacher, **changes):
    """The configuration of its student: stages of 4, 2 and 1 steps."""
    config = given_config(**{**STUDENT, "teacher__workdir": str(teacher), **changes})
    config.data.on_device = True
    return config


def spec_of(config):
    """The model and the `TrainSpec` of a configuration, without a run."""
    config.network = "custom"
    return factory.train_spec(config, factory.network(config, Small()), num_images=1297)


def tuned(teacher, **changes):
    """The configuration of a student by consistency tuning, in stages of three steps."""
    method = {"distil__method": "consistency", "sample__sampler": "consistency", "sample__num_steps": 2}
    config = student(teacher, **{**method, "loss__times": "log_normal", "train__num_steps": 6, **changes})
    config.distil.first_steps = 64
    return config


AVERAGED = {
    **{key: value for key, value in STUDENT.items() if not key.startswith("distil__")},
    "distil__method": "mean_flow",
    "sample__sampler": "mean_flow",
    "loss__times": "logit_normal",
    "train__num_steps": 4,
}
