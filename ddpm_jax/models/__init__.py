"""Networks in Flax linen; they know images, times and labels, and nothing of diffusion. Read next: `unet.py`."""

from ddpm_jax.models.classifier import Classifier
from ddpm_jax.models.layers import Architecture
from ddpm_jax.models.unet import UNet

__all__ = ["Architecture", "Classifier", "UNet"]
