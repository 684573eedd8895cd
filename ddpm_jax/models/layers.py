"""The parts of the U-Net: time embedding, residual block, self-attention, resampling; independent of diffusion.

Two published families differ in details that a weight file depends on: Ho et al. 2020 (and DDIM), and ADM (Dhariwal &
Nichol 2021). `Architecture` names every such detail. Computation may be bfloat16; parameters, norms and softmax stay
float32. Read next: `unet.py`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.initializers import Initializer

from ddpm_jax.models.convolution import convolution

init: Initializer = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
zero_init: Initializer = nn.initializers.zeros_init()

ImageMap: TypeAlias = Callable[[jax.Array], jax.Array]
"""A function of x `[B, H, W, C]` alone, such as a resampling or a norm."""


@dataclass(frozen=True)
class Architecture:
    """The hyperparameters of a network that the denoiser and the classifier have in common.

    Attributes:
      channels: base width, the width of the first level.
      channel_mult: width of each level as a multiple of `channels`; each level but the first halves the image.
      num_res_blocks: residual blocks per level of the encoder (one more per level of the decoder).
      attention_resolutions: image heights in pixels at which every residual block is followed by self-attention.
      num_heads: number of attention heads if `head_channels` is 0.
      head_channels: channels per attention head; with 0, `num_heads` is used instead.
      dropout: dropout rate inside the residual blocks.
      scale_shift_norm: the embedding scales and shifts the block's second norm (ADM) instead of being added before it
        (Ho).
      resample_in_block: resampling happens inside a residual block (ADM's larger models) instead of by a convolution.
      padding: padding of the stride-2 convolution: "same" pads (0, 1) as Ho, "symmetric" pads (1, 1) as ADM.
      time_embedding: "sin_cos" as Ho, "cos_sin" as ADM (their frequencies differ too).
      time_scale: factor of the time index: 1, or 1000/T in improved diffusion.
      time_offset: what is added to the time index before that: 1 for networks of the time itself.
      norm_groups: number of groups of each GroupNorm.
      norm_epsilon: epsilon of each GroupNorm: 1e-6 for Ho's weights, 1e-5 for weights from PyTorch.
      dtype: dtype of the computation, "float32" or "bfloat16".
      remat: recompute each block's activations in the backward pass, to save memory.

    Raises:
      ValueError: `padding` or `time_embedding` has another value than these.
    """

    channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 2, 2)
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (16,)
    num_heads: int = 1
    head_channels: int = 0
    dropout: float = 0.0
    scale_shift_norm: bool = False
    resample_in_block: bool = False
    padding: str = "same"
    time_embedding: str = "sin_cos"
    time_scale: float = 1.0
    time_offset: float = 0.0
    norm_groups: int = 32
    norm_epsilon: float = 1e-6
    dtype: str = "float32"
    remat: bool = False

    def __post_init__(self) -> None:
        if self.padding not in ("same", "symmetric"):
            raise ValueError(f"padding must be 'same' or 'symmetric', got {self.padding!r}")
        if self.time_embedding not in ("sin_cos", "cos_sin"):
            raise ValueError(f"time_embedding must be 'sin_cos' or 'cos_sin', got {self.time_embedding!r}")

    def heads(self, channels: int) -> int:
        """The number of attention heads at a width of `channels`."""
        return channels // self.head_channels if self.head_channels else self.num_heads


def timestep_embedding(index: jax.Array, num_channels: int, order: str = "sin_cos") -> jax.Array:
    """The Fourier features of time (Vaswani et al. 2017, section 3.5, as used by Ho et al. 2020 and by ADM).

    Args:
      index: `[B]` 0-based time indices, integers or floats between them.
      num_channels: even width of the embedding.
      order: "sin_cos": sines first, frequencies `10000**(-i / (half - 1))`; "cos_sin": cosines first, `10000**(-i /
        half)`.

    Returns:
      `[B, num_channels]`, float32.
    """
    half = num_channels // 2
    steps = half - 1 if order == "sin_cos" else half
    frequencies = jnp.exp(-math.log(10000) / steps * jnp.arange(half, dtype=jnp.float32))
    angles = index.astype(jnp.float32)[:, None] * frequencies[None, :]
    waves = (jnp.sin(angles), jnp.cos(angles)) if order == "sin_cos" else (jnp.cos(angles), jnp.sin(angles))
    return jnp.concatenate(waves, axis=-1)


def upsample_nearest(x: jax.Array) -> jax.Array:
    """Maps x `[B, H, W, C]` to `[B, 2H, 2W, C]`, in which each pixel is repeated four times."""
    batch, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (batch, height, 2, width, 2, channels))
    return x.reshape(batch, 2 * height, 2 * width, channels)


def downsample_mean(x: jax.Array) -> jax.Array:
    """Maps x `[B, H, W, C]` to `[B, H/2, W/2, C]`, the mean of each 2x2 square."""
    return nn.avg_pool(x, (2, 2), strides=(2, 2))


def conv3x3(
    channels: int,
    arch: Architecture,
    name: str,
    *,
    kernel_init: Initializer = init,
    dtype: str | None = None,
    **options: Any,
) -> nn.Conv:
    """A 3x3 convolution, computed in `dtype` or by default in that of the architecture; `options` are of `nn.Conv`."""
    own = {"kernel_init": kernel_init, "dtype": dtype or arch.dtype, "conv_general_dilated": convolution}
    return nn.Conv(channels, (3, 3), name=name, **own, **options)


def dense(
    channels: int, arch: Architecture, name: str, *, kernel_init: Initializer = init, dtype: str | None = None
) -> nn.Dense:
    """A linear map of the last axis, computed in `dtype` or by default in that of the architecture."""
    return nn.Dense(channels, kernel_init=kernel_init, dtype=dtype or arch.dtype, name=name)


def group_norm(arch: Architecture, name: str) -> ImageMap:
    """A function of x `[B, ..., C]`: GroupNorm in float32 for every input dtype; the result has arch's dtype."""
    norm = nn.GroupNorm(
        arch.norm_groups, epsilon=arch.norm_epsilon, dtype=jnp.float32, use_fast_variance=False, name=name
    )
    return lambda x: norm(x.astype(jnp.float32)).astype(arch.dtype)


class Embedding(nn.Module):
    """The embedding of the time, and of the class if there are classes, with four times the base width.

    Attributes:
      arch: `Architecture`.
      num_classes: number of rows of the class table; 0 for no table.
    """

    arch: Architecture
    num_classes: int = 0

    @nn.compact
    def __call__(self, index: jax.Array, label: jax.Array | None = None) -> jax.Array:
        """Embeds time indices `[B]` and integer labels `[B]` (None without classes) as `[B, 4 channels]`."""
        width = 4 * self.arch.channels
        time = self.arch.time_scale * (index + self.arch.time_offset)
        emb = timestep_embedding(time, self.arch.channels, self.arch.time_embedding)
        emb = dense(width, self.arch, "dense_0")(emb)
        emb = dense(width, self.arch, "dense_1")(nn.silu(emb))
        if self.num_classes:
            table = nn.Embed(self.num_classes, width, embedding_init=nn.initializers.normal(1.0), name="label")
            emb = emb + table(label).astype(self.arch.dtype)
        return emb


class SpanEmbedding(nn.Module):
    """The embedding of the length of a step, with four times the base width, which is 0 at first."""

    arch: Architecture

    @nn.compact
    def __call__(self, length: jax.Array) -> jax.Array:
        """Embeds differences of time indices `[B]` as `[B, 4 channels]`."""
        width = 4 * self.arch.channels
        emb = timestep_embedding(self.arch.time_scale * length, self.arch.channels, self.arch.time_embedding)
        emb = dense(width, self.arch, "dense_0")(emb)
        return dense(width, self.arch, "dense_1", kernel_init=zero_init)(nn.silu(emb))


class ResBlock(nn.Module):
    """Two 3x3 convolutions with the embedding between them and a residual connection; it may resample the image inside.

    Attributes:
      arch: `Architecture`.
      out_channels: number of channels of the result.
      resample: `upsample_nearest`, `downsample_mean`, or None.
    """

    arch: Architecture
    out_channels: int
    resample: ImageMap | None = None

    @nn.compact
    def __call__(self, x: jax.Array, emb: jax.Array, train: bool) -> jax.Array:
        """Maps x `[B, H, W, C]` and emb `[B, E]` to `[B, H', W', out_channels]`; dropout only when `train`."""
        arch, width = self.arch, self.out_channels
        h = nn.silu(group_norm(arch, "norm_0")(x))
        if self.resample:
            h, x = self.resample(h), self.resample(x)
        h = conv3x3(width, arch, "conv_0")(h)
        emb = dense(2 * width if arch.scale_shift_norm else width, arch, "emb")(nn.silu(emb))[:, None, None, :]
        norm = group_norm(arch, "norm_1")
        if arch.scale_shift_norm:
            scale, shift = jnp.split(emb, 2, axis=-1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + emb)
        h = nn.Dropout(arch.dropout, deterministic=not train)(nn.silu(h))
        h = conv3x3(width, arch, "conv_1", kernel_init=zero_init)(h)
        if x.shape[-1] != width:
            x = dense(width, arch, "shortcut")(x)
        return x + h


class Attention(nn.Module):
    """Self-attention of every pixel to every pixel, with a residual connection; the softmax is in float32."""

    arch: Architecture

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x `[B, H, W, C]` to the same shape."""
        arch, (batch, height, width, channels) = self.arch, x.shape
        num_heads = arch.heads(channels)
        h = group_norm(arch, "norm")(x).reshape(batch, height * width, channels)
        heads = (batch, height * width, num_heads, channels // num_heads)
        query, key, value = (dense(channels, arch, name)(h).reshape(heads) for name in ("query", "key", "value"))
        h = jax.nn.dot_product_attention(query, key, value)
        h = dense(channels, arch, "out", kernel_init=zero_init)(h.reshape(x.shape))
        return x + h


class Downsample(nn.Module):
    """Halves height and width by a stride-2 convolution."""

    arch: Architecture

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x `[B, H, W, C]`, H and W even, to `[B, H/2, W/2, C]`."""
        padding = "SAME" if self.arch.padding == "same" else ((1, 1), (1, 1))
        return conv3x3(x.shape[-1], self.arch, "conv", strides=(2, 2), padding=padding)(x)


class Upsample(nn.Module):
    """Doubles height and width, then applies a 3x3 convolution."""

    arch: Architecture

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x `[B, H, W, C]` to `[B, 2H, 2W, C]`."""
        return conv3x3(x.shape[-1], self.arch, "conv")(upsample_nearest(x))
