"""The U-Net: an encoder to low resolution and many channels, a middle, and a decoder with skip connections.

One module expresses both the network of Ho et al. 2020 and that of ADM (Dhariwal & Nichol 2021); `Architecture` in
`layers.py` lists the differences. `Encoder` and `Middle` are modules of their own because the noise-aware classifier
uses them too. The parts of the network are called with `train`, which switches dropout on. Read next: `layers.py`.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddpm_jax.models.layers import (
    Architecture,
    Attention,
    Downsample,
    Embedding,
    ImageMap,
    ResBlock,
    SpanEmbedding,
    Upsample,
    conv3x3,
    downsample_mean,
    group_norm,
    upsample_nearest,
    zero_init,
)

Module = TypeVar("Module", bound=nn.Module)


def _rematerialised(arch: Architecture, module: type[Module]) -> type[Module]:
    """The block class, with activations that are stored or, with `arch.remat`, recomputed in the backward pass."""
    if not arch.remat:
        return module
    return nn.remat(module, static_argnums=(3,) if module is ResBlock else ())


def _block(
    arch: Architecture, channels: int, name: str, *, attend: bool = False, resample: ImageMap | None = None
) -> Callable[[jax.Array, jax.Array, bool], jax.Array]:
    """A function of (x, emb, train): a residual block, followed by attention if `attend`."""
    block = _rematerialised(arch, ResBlock)(arch, channels, resample, name=name)
    if not attend:
        return block
    attention = _rematerialised(arch, Attention)(arch, name=f"{name}_attention")
    return lambda x, emb, train: attention(block(x, emb, train))


class Encoder(nn.Module):
    """The downsampling half; returns the outputs of the first convolution, of all blocks and of all downsamplings."""

    arch: Architecture

    @nn.compact
    def __call__(self, x: jax.Array, emb: jax.Array, train: bool) -> list[jax.Array]:
        """Maps x `[B, H, W, C]` and emb `[B, E]` to skips `[B, H', W', C']`, the last at the lowest resolution.

        Raises:
          ValueError: H or W is not divisible by `2**(levels - 1)`.
        """
        arch, last = self.arch, len(self.arch.channel_mult) - 1
        if x.shape[1] % 2**last or x.shape[2] % 2**last:
            raise ValueError(f"{last + 1} levels need sides divisible by {2**last}, got {x.shape[1:3]}")
        skips = [conv3x3(arch.channels, arch, "conv_in")(x)]
        for level, mult in enumerate(arch.channel_mult):
            channels = arch.channels * mult
            for i in range(arch.num_res_blocks):
                attend = skips[-1].shape[1] in arch.attention_resolutions
                block = _block(arch, channels, f"level_{level}_block_{i}", attend=attend)
                skips.append(block(skips[-1], emb, train))
            if level == last:
                break
            name = f"level_{level}_down"
            if arch.resample_in_block:
                skips.append(_block(arch, channels, name, resample=downsample_mean)(skips[-1], emb, train))
            else:
                skips.append(Downsample(arch, name=name)(skips[-1]))
        return skips


class Middle(nn.Module):
    """The part at the lowest resolution: block, attention, block."""

    arch: Architecture

    @nn.compact
    def __call__(self, x: jax.Array, emb: jax.Array, train: bool) -> jax.Array:
        """Maps x `[B, H, W, C]` and emb `[B, E]` to the shape of x."""
        x = _block(self.arch, x.shape[-1], "block_0", attend=True)(x, emb, train)
        return _block(self.arch, x.shape[-1], "block_1")(x, emb, train)


class Decoder(nn.Module):
    """The upsampling half; every block uses one skip, in the reverse of the encoder's order."""

    arch: Architecture

    @nn.compact
    def __call__(self, x: jax.Array, skips: Sequence[jax.Array], emb: jax.Array, train: bool) -> jax.Array:
        """Maps x `[B, H, W, C]` at the lowest resolution and the encoder's skips to `[B, H0, W0, C0]` at full size."""
        arch, skips = self.arch, list(skips)
        for level, mult in reversed(list(enumerate(arch.channel_mult))):
            channels = arch.channels * mult
            for i in range(arch.num_res_blocks + 1):
                attend = x.shape[1] in arch.attention_resolutions
                block = _block(arch, channels, f"level_{level}_block_{i}", attend=attend)
                x = block(jnp.concatenate([x, skips.pop()], axis=-1), emb, train)
            if level == 0:
                break
            name = f"level_{level}_up"
            if arch.resample_in_block:
                x = _block(arch, channels, name, resample=upsample_nearest)(x, emb, train)
            else:
                x = Upsample(arch, name=name)(x)
        return x


class UNet(nn.Module):
    """The denoising network.

    Attributes:
      arch: `Architecture`.
      out_channels: channels of the result: twice those of the image if the variance is learned.
      num_classes: number of rows of the class table; 0 for an unconditional network.
      spans: whether it may be told where a step ends.
    """

    arch: Architecture
    out_channels: int = 3
    num_classes: int = 0
    spans: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        index: jax.Array,
        label: jax.Array | None = None,
        *,
        until: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Runs the network.

        Args:
          x: `[B, H, W, C]` noisy images; H and W must be divisible by `2**(levels - 1)`.
          index: `[B]` 0-based time indices, `t - 1`.
          label: `[B]` integer classes, or None for an unconditional network.
          until: `[B]` indices of the times at which steps end, for a network with `spans`; None for steps of no length.
          train: whether dropout is on (needs a "dropout" key).

        Returns:
          `[B, H, W, out_channels]`, float32.

        Raises:
          ValueError: H or W is not divisible by `2**(levels - 1)`, or there is `until` for a network without `spans`.
        """
        if until is not None and not self.spans:
            raise ValueError(
                "this network has no input for the end of a step: only the network of a MeanFlow student has one"
            )
        arch = self.arch
        emb = Embedding(arch, self.num_classes, name="embedding")(index, label)
        if self.spans:
            emb += SpanEmbedding(arch, name="span")(jnp.zeros_like(index) if until is None else index - until)
        skips = Encoder(arch, name="encoder")(x.astype(arch.dtype), emb, train)
        h = Middle(arch, name="middle")(skips[-1], emb, train)
        h = Decoder(arch, name="decoder")(h, skips, emb, train)
        h = nn.silu(group_norm(arch, "norm_out")(h)).astype(jnp.float32)
        return conv3x3(self.out_channels, arch, "conv_out", kernel_init=zero_init, dtype="float32")(h)


__all__ = ["Architecture", "Decoder", "Encoder", "Middle", "UNet"]
