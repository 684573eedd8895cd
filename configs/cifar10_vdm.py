"""CIFAR-10 with the bound of continuous time (VDM, Kingma et al. 2021): a deep network that keeps the resolution.

Command: python train.py --config=configs/cifar10_vdm.py --config.data.path=DIR
Data: as for configs/cifar10.py
Hardware: meant for several modern accelerators; the paper took 9 days of a TPU v3-8 for 10M steps.
Reproduces: the objective of 2.65 bits/dim; the network has 32 blocks each way at 32x32 as in the paper, without its
  Fourier features of the image, and the ends of the log-SNR are the paper's first ones, not learned. It was not
  trained here.
"""

from ml_collections import ConfigDict

from ddpm_jax.config import experiment


def get_config() -> ConfigDict:
    """The CIFAR-10 experiment with the bound of continuous time."""
    config = experiment("cifar10")
    config.name = "cifar10_vdm"
    config.data.random_flip = False
    config.diffusion.schedule = "log_snr"  # with which the plain noise error is the bound
    config.model.channel_mult = (1,)
    config.model.num_res_blocks = 32
    config.model.attention_resolutions = ()
    config.loss.times = "learned"
    config.optim.beta_2 = 0.99
    config.optim.warmup_steps = 0
    config.optim.grad_clip = 0.0
    config.train.num_steps = 10_000_000
    config.sample.variance = "small"
    return config
