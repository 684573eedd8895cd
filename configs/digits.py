"""scikit-learn's handwritten digits, 8x8: the default experiment, which shows everything on a laptop.

Command: python train.py
Hardware: 2 CPU cores, 3 to 6 minutes.
Reproduces: nothing published.
"""

from ml_collections import ConfigDict

from ddpm_jax.config import experiment


def get_config() -> ConfigDict:
    """The digits experiment."""
    config = experiment("base")
    config.name = "digits"
    config.data.source = "digits"
    config.data.image_size = 8
    config.data.channels = 1
    config.data.random_flip = False
    config.data.on_device = True
    config.model.channels = 32
    config.model.channel_mult = (1, 2)
    config.model.num_res_blocks = 1
    config.model.attention_resolutions = (4,)
    config.model.dropout = 0.0
    config.model.norm_groups = 8
    config.loss.times = "antithetic"
    config.optim.learning_rate = 1e-3
    config.optim.warmup_steps = 100
    config.optim.ema_decay = 0.995
    config.train.batch_size = 64
    config.train.num_steps = 2000
    config.checkpoint.every = 500
    config.checkpoint.keep_every = 0
    config.log.every = 50
    config.log.preview_every = 500
    config.log.preview_images = 64
    config.log.preview_steps = 50
    return config
