"""A classifier of noisy ImageNet 64x64 images, after ADM's (Dhariwal & Nichol 2021, section 4.3 and appendix I).

Command: python train.py --config=configs/imagenet64_classifier.py --config.data.path=DIR, then
  python sample.py --workdir=runs/imagenet64 --classifier_workdir=runs/imagenet64_classifier --labels=207
Data: as for configs/imagenet64.py, whose noise schedule it shares
Hardware: meant for 8 modern GPUs.
Reproduces: nothing published; ADM's network, trained without its weight decay.
"""

from ml_collections import ConfigDict

from ddpm_jax.config import experiment


def get_config() -> ConfigDict:
    """ADM's classifier, for the images and the noise schedule of configs/imagenet64.py."""
    config = experiment("imagenet64")
    config.name = "imagenet64_classifier"
    config.task = "classify"
    config.diffusion.learned_variance = False
    config.labels.num_classes = 1000
    config.model.num_res_blocks = 4
    config.model.attention_resolutions = (32, 16, 8)
    config.model.num_heads = 1
    config.model.head_channels = 64
    config.model.scale_shift_norm = True
    config.model.resample_in_block = True
    config.loss.kind = "simple"
    config.loss.times = "uniform"
    config.sample.variance = "large"
    config.optim.learning_rate = 3e-4
    config.train.batch_size = 256
    config.train.num_steps = 300_000
    config.log.preview_every = 0
    return config
