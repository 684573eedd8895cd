"""CelebA-HQ 256x256, as in Ho et al. 2020: 113.7M parameters.

Command: python train.py --config=configs/celebahq256.py --config.data.path=DIR
Data: python -m ddpm_jax.data.prepare celeb_a_hq/256 --data_dir=DIR (needs the raw archives, which you download by
  hand as tensorflow-datasets says), or a folder of images: --config.data.source=folder --config.data.path=FOLDER
Hardware: meant for a TPU v3-8; the training in the paper ran at 2.2 steps/s. On fewer devices:
  --config.train.accumulation=4, --config.model.remat=True, --config.model.dtype=bfloat16.
Reproduces: the settings of the paper's figure 3, after 0.5M steps; not rerun here.
"""

from ml_collections import ConfigDict

from ddpm_jax.config import experiment


def get_config() -> ConfigDict:
    """The CelebA-HQ experiment; the LSUN experiments share its network."""
    config = experiment("base")
    config.name = "celebahq256"
    config.data.source = "tfds"
    config.data.name = "celeb_a_hq/256"
    config.data.image_size = 256
    config.model.channel_mult = (1, 1, 2, 2, 4, 4)
    config.model.dropout = 0.0
    config.optim.learning_rate = 2e-5
    config.train.batch_size = 64
    config.train.num_steps = 500_000
    config.sample.variance = "small"
    config.log.preview_images = 16
    return config
