"""The classifier of noisy images: the encoder of the U-Net, with attention pooling instead of the decoder.

To guide a denoiser towards a class, `grad log p(y | x_t)` is needed at every t (Dhariwal & Nichol 2021, section 4): one
network is conditioned on t, instead of one network for each t. Read next: `unet.py`, which defines `Encoder` and
`Middle`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddpm_jax.models.layers import Architecture, Embedding, dense, group_norm, zero_init
from ddpm_jax.models.unet import Encoder, Middle


class AttentionPool(nn.Module):
    """Attention pooling, with the mean pixel as the only query (CLIP, Radford et al. 2021, section 2.4).

    Attributes:
      arch: `Architecture`.
      features: number of features of the result.
    """

    arch: Architecture
    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x `[B, H, W, C]`, whose product H W is fixed, to `[B, features]`, float32."""
        arch, (batch, height, width, channels) = self.arch, x.shape
        num_heads = arch.heads(channels)
        pixels = x.reshape(batch, height * width, channels)
        tokens = jnp.concatenate([pixels.mean(axis=1, keepdims=True), pixels], axis=1)
        position = nn.initializers.normal(channels**-0.5)
        tokens = tokens + self.param("embedding", position, tokens.shape[1:])
        heads = (batch, -1, num_heads, channels // num_heads)
        project = lambda name, tokens: dense(channels, arch, name)(tokens).reshape(heads)
        # Only the output at the mean pixel is used, so there is only this query.
        query, key, value = project("query", tokens[:, :1]), project("key", tokens), project("value", tokens)
        answer = jax.nn.dot_product_attention(query, key, value).reshape(batch, channels)
        self.sow("intermediates", "pooled", answer)  # features of the image, for those who ask for them
        return dense(self.features, arch, "out", kernel_init=zero_init, dtype="float32")(answer)


class Classifier(nn.Module):
    """The noise-aware classifier (Dhariwal & Nichol 2021, section 4.3).

    Attributes:
      arch: `Architecture`.
      num_classes: the number of classes, K.
    """

    arch: Architecture
    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, index: jax.Array, *, train: bool = False) -> jax.Array:
        """Runs the network.

        Args:
          x: `[B, H, W, C]` noisy images, whose product H W is fixed; H and W must be divisible by `2**(levels - 1)`.
          index: `[B]` 0-based time indices, `t - 1`.
          train: whether dropout is on (needs a "dropout" key).

        Returns:
          Logits `[B, K]`, float32.

        Raises:
          ValueError: H or W is not divisible by `2**(levels - 1)`.
        """
        arch = self.arch
        emb = Embedding(arch, name="embedding")(index)
        skips = Encoder(arch, name="encoder")(x, emb, train)
        h = Middle(arch, name="middle")(skips[-1], emb, train)
        h = nn.silu(group_norm(arch, "norm_out")(h))
        return AttentionPool(arch, self.num_classes, name="pool")(h)
