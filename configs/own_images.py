"""Your own images: copy this file, change the settings that differ, and train.

Command: python train.py --config=configs/own_images.py --config.data.path=FOLDER --workdir=runs/mine
Data: any folder of JPEG, PNG, WebP, ... files; each is cropped to its largest centred square and resized.
  Sub-folders are classes.
Hardware: one modern GPU. If memory is short: --config.train.accumulation=4, --config.model.dtype=bfloat16,
  --config.model.remat=True, or smaller images.
Reproduces: nothing published.
"""

from ml_collections import ConfigDict

from ddpm_jax.config import experiment


def get_config() -> ConfigDict:
    """An experiment on a folder of images."""
    config = experiment("base")
    config.name = "own_images"
    config.data.source = "folder"
    config.data.path = ""  # or on the command line: --config.data.path=FOLDER
    config.data.image_size = 64  # divisible by 2 once for each level of channel_mult but the last
    config.data.random_flip = True  # False if mirrored images are wrong (letters, digits)
    config.model.channel_mult = (1, 2, 2, 2)  # add a level for images of twice the size
    config.model.dropout = 0.1  # a higher rate for fewer images
    config.train.batch_size = 64
    config.optim.warmup_steps = 1000
    config.train.num_steps = 200_000  # watch the previews and stop when they are good enough
    config.checkpoint.every = 5000
    config.log.preview_every = 2500
    return config
