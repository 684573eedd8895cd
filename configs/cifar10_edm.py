"""CIFAR-10, unconditional, with the objective of EDM (Karras et al. 2022, "VP" column).

Command: python train.py --config=configs/cifar10_edm.py --config.data.path=DIR
Data: as for configs/cifar10.py
Hardware: meant for several modern GPUs: 200M images, two days of 8 V100s in the paper.
Reproduces: the objective, the optimiser and the sampler of FID 1.97 (35 evaluations); the network is that of
  configs/cifar10.py with four blocks per level, and the images are flipped but not augmented otherwise. It was not
  trained here.
"""

from ml_collections import ConfigDict

from ddpm_jax.config import experiment


def get_config() -> ConfigDict:
    """The CIFAR-10 experiment with EDM's objective."""
    config = experiment("cifar10")
    config.name = "cifar10_edm"
    config.diffusion.schedule = "log_snr"  # sigma from 0.002 to 80
    config.diffusion.log_snr_first = 12.43
    config.diffusion.log_snr_last = -8.76
    config.diffusion.target = "edm"
    config.model.channel_mult = (2, 2, 2)
    config.model.num_res_blocks = 4
    config.model.dropout = 0.13
    config.loss.weight = "edm"
    config.loss.times = "log_normal"
    config.optim.learning_rate = 1e-3
    config.optim.warmup_steps = 19_532  # 10M images
    config.optim.grad_clip = 0.0
    config.optim.ema_decay = 0.99929  # a half-life of 0.5M images
    config.train.batch_size = 512
    config.train.num_steps = 390_625
    config.sample.sampler = "heun"
    config.sample.grid = "karras"
    config.sample.num_steps = 18
    config.sample.clip_x_0 = False
    return config
