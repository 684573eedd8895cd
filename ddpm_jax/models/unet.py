"""The U-Net: down to coarse and wide, across, and back up with the fine detail handed over at every level.

One module expresses Ho et al. 2020's network and ADM's (Dhariwal & Nichol 2021); `Architecture` in `layers.py` lists
what they differ in. `Encoder` and `Middle` stand alone because a noise-aware classifier is made of them too. The
network's parts are called with `train`, which switches dropout on. Read next: `layers.py`.
"""

import flax.linen as nn
import jax.numpy as jnp

from ddpm_jax.models.layers import (
    Architecture,
    Attention,
    Downsample,
    Embedding,
    ResBlock,
    Upsample,
    conv3x3,
    downsample_mean,
    group_norm,
    upsample_nearest,
    zero_init,
)


def _rematerialised(arch, module):
    """The block class as the architecture wants it run on the way back: stored, or computed again."""
    if not arch.remat:
        return module
    return nn.remat(module, static_argnums=(3,) if module is ResBlock else ())


def _block(arch, channels, name, *, attend=False, resample=None):
    """A function of (x, emb, train): a residual block, followed by attention if asked."""
    block = _rematerialised(arch, ResBlock)(arch, channels, resample, name=name)
    if not attend:
        return block
    attention = _rematerialised(arch, Attention)(arch, name=f"{name}_attention")
    return lambda x, emb, train: attention(block(x, emb, train))


class Encoder(nn.Module):
    """The way down; returns every level's activations, the first convolution's and the resamplings' included."""

    arch: Architecture

    @nn.compact
    def __call__(self, x, emb, train):
        """Maps x `[B, H, W, C]` to a list of skips, of which the last is the bottom.

        Raises:
          ValueError: the image cannot be halved so often.
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
                return skips
            name = f"level_{level}_down"
            if arch.resample_in_block:
                skips.append(_block(arch, channels, name, resample=downsample_mean)(skips[-1], emb, train))
            else:
                skips.append(Downsample(arch, name=name)(skips[-1]))


class Middle(nn.Module):
    """The bottom: block, attention, block, whatever the resolution."""

    arch: Architecture

    @nn.compact
    def __call__(self, x, emb, train):
        """Maps x `[B, H, W, C]` to the same shape."""
        x = _block(self.arch, x.shape[-1], "block_0", attend=True)(x, emb, train)
        return _block(self.arch, x.shape[-1], "block_1")(x, emb, train)


class Decoder(nn.Module):
    """The way up; every block takes one skip, in the reverse of the order in which the encoder made them."""

    arch: Architecture

    @nn.compact
    def __call__(self, x, skips, emb, train):
        """Maps x `[B, H, W, C]` at the bottom and the encoder's skips to `[B, H0, W0, C0]` at full size."""
        arch, skips = self.arch, list(skips)
        for level, mult in reversed(list(enumerate(arch.channel_mult))):
            channels = arch.channels * mult
            for i in range(arch.num_res_blocks + 1):
                attend = x.shape[1] in arch.attention_resolutions
                block = _block(arch, channels, f"level_{level}_block_{i}", attend=attend)
                x = block(jnp.concatenate([x, skips.pop()], axis=-1), emb, train)
            if level == 0:
                return x
            name = f"level_{level}_up"
            if arch.resample_in_block:
                x = _block(arch, channels, name, resample=upsample_nearest)(x, emb, train)
            else:
                x = Upsample(arch, name=name)(x)


class UNet(nn.Module):
    """The denoising network.

    Attributes:
      arch: `Architecture`.
      out_channels: channels of the result; twice the image's for a learned variance.
      num_classes: rows of the class table; 0 for an unconditional network.
    """

    arch: Architecture
    out_channels: int = 3
    num_classes: int = 0

    @nn.compact
    def __call__(self, x, index, label=None, *, train=False):
        """Runs the network.

        Args:
          x: `[B, H, W, C]` noisy images, H and W divisible by 2 for every level but the last.
          index: `[B]` 0-based time indices, `t - 1`.
          label: `[B]` integer classes where there are classes.
          train: dropout on (needs a "dropout" key).

        Returns:
          `[B, H, W, out_channels]`, float32.

        Raises:
          ValueError: the image cannot be halved so often.
        """
        arch = self.arch
        emb = Embedding(arch, self.num_classes, name="embedding")(index, label)
        skips = Encoder(arch, name="encoder")(x.astype(arch.dtype), emb, train)
        h = Middle(arch, name="middle")(skips[-1], emb, train)
        h = Decoder(arch, name="decoder")(h, skips, emb, train)
        h = nn.silu(group_norm(arch, "norm_out")(h)).astype(jnp.float32)
        return nn.Conv(self.out_channels, (3, 3), kernel_init=zero_init, name="conv_out")(h)


__all__ = ["Architecture", "Decoder", "Encoder", "Middle", "UNet"]
