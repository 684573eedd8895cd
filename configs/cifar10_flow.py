"""CIFAR-10, unconditional, by flow matching on the straight path (Lipman et al. 2023, "FM w/ OT").

Command: python train.py --config=configs/cifar10_flow.py --config.data.path=DIR
Data: as for configs/cifar10.py
Hardware: meant for several modern GPUs.
Reproduces: the objective and the schedule of training of FID 6.35 (142 evaluations of an adaptive solver); the network
  is that of configs/cifar10.py with 256 channels. It was not trained here.
"""

from ml_collections import ConfigDict

from ddpm_jax.config import experiment


def get_config() -> ConfigDict:
    """The CIFAR-10 experiment by flow matching."""
    config = experiment("cifar10")
    config.name = "cifar10_flow"
    config.diffusion.schedule = "straight"
    config.diffusion.target = "flow"
    config.model.channels = 256
    config.model.head_channels = 64
    config.model.dropout = 0.0
    config.loss.weight = "flow"
    config.optim.learning_rate = 5e-4
    config.optim.warmup_steps = 45_000
    config.optim.grad_clip = 0.0
    config.train.batch_size = 256
    config.train.num_steps = 195_000
    config.sample.sampler = "heun"
    config.sample.num_steps = 50
    config.sample.clip_x_0 = False
    return config
