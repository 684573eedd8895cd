"""MNIST in grey at 32x32 (the 28x28 digits are enlarged): a first model on a GPU.

Command: python train.py --config=configs/mnist.py --config.data.path=DIR
Data: python -m ddpm_jax.data.prepare mnist --data_dir=DIR
Hardware: one GPU.
Reproduces: nothing published.
"""

from ml_collections import ConfigDict

from ddpm_jax.config import experiment


def get_config() -> ConfigDict:
    """The MNIST experiment."""
    config = experiment("base")
    config.name = "mnist"
    config.data.source = "tfds"
    config.data.name = "mnist"
    config.data.channels = 1
    config.data.random_flip = False
    config.data.on_device = True
    config.model.channels = 64
    config.model.channel_mult = (1, 2, 2)
    config.model.attention_resolutions = (8,)
    config.optim.warmup_steps = 1000
    config.optim.ema_decay = 0.999
    config.train.num_steps = 50_000
    config.checkpoint.every = 5000
    config.log.preview_every = 5000
    return config
