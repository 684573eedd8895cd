"""Networks in Flax linen: functions of images, times and labels, independent of diffusion. Read next: `unet.py`."""

from ddpm_jax.models.classifier import Classifier
from ddpm_jax.models.layers import Architecture
from ddpm_jax.models.unet import UNet

__all__ = ["Architecture", "Classifier", "UNet"]
