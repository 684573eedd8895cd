"""CelebA 64x64, as in Song et al. 2020 (DDIM): 78.7M parameters.

Command: python train.py --config=configs/celeba.py --config.data.path=DIR
  conditioned on an attribute: --config.data.label=attributes/Smiling --config.labels.num_classes=2
  --config.labels.dropout=0.1
Data: python -m ddpm_jax.data.prepare celeb_a --data_dir=DIR
  or the folder of aligned images (img_align_celeba, 178x218): --config.data.source=folder --config.data.path=FOLDER
Hardware: meant for a TPU v3-8 or several modern GPUs.
Reproduces: the settings of FID 3.26 with 1,000 ancestral steps, 3.51 with 1,000 DDIM steps (its table 1); not rerun
  here.
"""

from ml_collections import ConfigDict

from ddpm_jax.config import experiment


def get_config() -> ConfigDict:
    """The CelebA experiment."""
    config = experiment("base")
    config.name = "celeba"
    config.data.source = "tfds"
    config.data.name = "celeb_a"
    config.data.image_size = 64
    config.data.crop = (25, 57, 153, 185)  # 128x128 around (x=89, y=121) of the aligned 178x218 images
    config.model.channel_mult = (1, 2, 2, 2, 4)
    config.loss.times = "antithetic"
    config.optim.warmup_steps = 0
    return config
