"""The Inception network of the Frechet Inception distance, in the form in which its weights are published.

It is the network of [Szegedy et al. 2015](https://arxiv.org/abs/1512.00567) as in the TensorFlow graph of 2015-12-05,
which differs from later versions in its pools: a mean does not count the padding, and the last block has a maximum
instead of a mean. Modules have the names of the published PyTorch file. A batch norm in inference is an affine map,
which is part of the kernel and bias of the convolution before it. Everything is computed in float32 on every device.
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddpm_jax.models.layers import ImageMap

NUM_LOGITS = 1008
_SPATIAL_CHANNELS = 7
_FLOAT32 = jax.lax.Precision.HIGHEST  # GPUs and TPUs round the factors of a product to fewer bits by default


class InceptionFeatures(NamedTuple):
    """The features of B images.

    Attributes:
      pool: `[B, 2048]`, means of the last block over all pixels: FID, KID, precision and recall.
      logits: `[B, 1008]`, without bias, as the Inception score takes them.
      spatial: `[B, 2023]`, the first 7 channels of the first branch of `Mixed_6d`, after its rectifier, at 17x17 pixels
        in the order (row, column, channel): sFID. It is the tensor `mixed_6/conv:0` of ADM's evaluator.
      pre_aux: `[B, 768]`, means of `Mixed_6e` over all pixels, the block that fed the auxiliary classifier.
    """

    pool: jax.Array
    logits: jax.Array
    spatial: jax.Array
    pre_aux: jax.Array


class ConvRelu(nn.Module):
    """The function `max(0, kernel * x + bias)`, where `*` is a convolution.

    Attributes:
      channels: number of channels of the result.
      kernel: height and width of the kernel in pixels.
      stride: distance of neighbouring outputs in pixels.
      padding: "SAME", or "VALID" with a 3x3 kernel.
    """

    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x `[B, H, W, C]` to `[B, H', W', channels]`."""
        shape = (*self.kernel, x.shape[-1], self.channels)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        if self.kernel == (1, 1):
            return nn.relu(jnp.dot(x, kernel[0, 0], precision=_FLOAT32) + bias)
        # XLA's CPU backend is several times slower without padding, so the border is computed and cut off.
        cut = self.padding == "VALID" and self.stride == 1
        h = jax.lax.conv_general_dilated(
            x,
            kernel,
            (self.stride, self.stride),
            "SAME" if cut else self.padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=_FLOAT32,
        )
        return nn.relu((h[:, 1:-1, 1:-1] if cut else h) + bias)


def chain(x: jax.Array, **convolutions: tuple[int, tuple[int, int]]) -> jax.Array:
    """Applies convolutions `{name: (channels, kernel)}` that keep the size to x `[B, H, W, C]`, one after another."""
    for name, (channels, kernel) in convolutions.items():
        x = ConvRelu(channels, kernel, name=name)(x)
    return x


def halved(x: jax.Array, channels: int, name: str) -> jax.Array:
    """A 3x3 convolution of stride 2, x `[B, H, W, C]` to `[B, (H - 1) // 2, (W - 1) // 2, channels]`."""
    return ConvRelu(channels, (3, 3), stride=2, padding="VALID", name=name)(x)


def halved_max(x: jax.Array) -> jax.Array:
    """The maximum of 3x3 pixels with stride 2, x `[B, H, W, C]` to `[B, (H - 1) // 2, (W - 1) // 2, C]`.

    It consists of slices, because XLA's CPU backend is slower with a reduction over windows, as in `nn.max_pool`.
    """
    for axis in (1, 2):
        end = x.shape[axis] - 2
        neighbours = [jax.lax.slice_in_dim(x, i, end + i, stride=2, axis=axis) for i in range(3)]
        x = functools.reduce(jnp.maximum, neighbours)
    return x


def neighbour_max(x: jax.Array) -> jax.Array:
    """The maximum of the 3x3 neighbours of each pixel, x `[B, H, W, C]` to the same shape."""
    return nn.max_pool(x, (3, 3), (1, 1), "SAME")


def neighbour_mean(x: jax.Array) -> jax.Array:
    """The mean of those of the 3x3 neighbours of each pixel that are in the image, x `[B, H, W, C]` to that shape."""
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


class BlockA(nn.Module):
    """A block of 35x35 pixels with four branches: 1x1, 5x5, twice 3x3, and a mean.

    Attributes:
      pool_channels: number of channels of the branch with the mean.
    """

    pool_channels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x `[B, H, W, C]` to `[B, H, W, 224 + pool_channels]`."""
        return jnp.concatenate(
            [
                chain(x, branch1x1=(64, (1, 1))),
                chain(x, branch5x5_1=(48, (1, 1)), branch5x5_2=(64, (5, 5))),
                chain(x, branch3x3dbl_1=(64, (1, 1)), branch3x3dbl_2=(96, (3, 3)), branch3x3dbl_3=(96, (3, 3))),
                chain(neighbour_mean(x), branch_pool=(self.pool_channels, (1, 1))),
            ],
            axis=-1,
        )


class BlockB(nn.Module):
    """The block from 35x35 to 17x17 pixels."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x `[B, H, W, C]` to `[B, (H - 1) / 2, (W - 1) / 2, 480 + C]`."""
        h = chain(x, branch3x3dbl_1=(64, (1, 1)), branch3x3dbl_2=(96, (3, 3)))
        return jnp.concatenate([halved(x, 384, "branch3x3"), halved(h, 96, "branch3x3dbl_3"), halved_max(x)], axis=-1)


class BlockC(nn.Module):
    """A block of 17x17 pixels with four branches: 1x1, 7x7 and twice 7x7 (each as 1x7 and 7x1), and a mean.

    Attributes:
      width: number of channels inside the branches.
    """

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x `[B, H, W, C]` to `[B, H, W, 768]`."""
        one, row, column, width = (1, 1), (1, 7), (7, 1), self.width
        return jnp.concatenate(
            [
                chain(x, branch1x1=(192, one)),
                chain(x, branch7x7_1=(width, one), branch7x7_2=(width, row), branch7x7_3=(192, column)),
                chain(
                    x,
                    branch7x7dbl_1=(width, one),
                    branch7x7dbl_2=(width, column),
                    branch7x7dbl_3=(width, row),
                    branch7x7dbl_4=(width, column),
                    branch7x7dbl_5=(192, row),
                ),
                chain(neighbour_mean(x), branch_pool=(192, one)),
            ],
            axis=-1,
        )


class BlockD(nn.Module):
    """The block from 17x17 to 8x8 pixels."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x `[B, H, W, C]` to `[B, (H - 1) / 2, (W - 1) / 2, 512 + C]`."""
        h = chain(x, branch3x3_1=(192, (1, 1)))
        g = chain(x, branch7x7x3_1=(192, (1, 1)), branch7x7x3_2=(192, (1, 7)), branch7x7x3_3=(192, (7, 1)))
        return jnp.concatenate([halved(h, 320, "branch3x3_2"), halved(g, 192, "branch7x7x3_4"), halved_max(x)], axis=-1)


class BlockE(nn.Module):
    """A block of 8x8 pixels, two of whose branches end in a 1x3 and a 3x1 convolution side by side.

    Attributes:
      pool: what the last branch begins with, `neighbour_mean` or `neighbour_max`.
    """

    pool: ImageMap

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x `[B, H, W, C]` to `[B, H, W, 2048]`."""
        one, row, column = (1, 1), (1, 3), (3, 1)
        h = chain(x, branch3x3_1=(384, one))
        g = chain(x, branch3x3dbl_1=(448, one), branch3x3dbl_2=(384, (3, 3)))
        return jnp.concatenate(
            [
                chain(x, branch1x1=(320, one)),
                chain(h, branch3x3_2a=(384, row)),
                chain(h, branch3x3_2b=(384, column)),
                chain(g, branch3x3dbl_3a=(384, row)),
                chain(g, branch3x3dbl_3b=(384, column)),
                chain(self.pool(x), branch_pool=(192, one)),
            ],
            axis=-1,
        )


class Inception(nn.Module):
    """The whole network; `convert/inception.py` reads its parameters from a published file."""

    @nn.compact
    def __call__(self, x: jax.Array) -> InceptionFeatures:
        """Maps normalised images x `[B, 299, 299, 3]` (`metrics.resize.inception_input`) to their features."""
        x = halved(x, 32, "Conv2d_1a_3x3")
        x = ConvRelu(32, (3, 3), padding="VALID", name="Conv2d_2a_3x3")(x)
        x = halved_max(chain(x, Conv2d_2b_3x3=(64, (3, 3))))
        x = chain(x, Conv2d_3b_1x1=(80, (1, 1)))
        x = halved_max(ConvRelu(192, (3, 3), padding="VALID", name="Conv2d_4a_3x3")(x))
        for name, pool_channels in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
            x = BlockA(pool_channels, name=name)(x)
        x = BlockB(name="Mixed_6a")(x)
        for name, width in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160)):
            x = BlockC(width, name=name)(x)
        spatial = x[..., :_SPATIAL_CHANNELS].reshape(len(x), -1)  # the first branch has the first channels
        x = BlockC(192, name="Mixed_6e")(x)
        pre_aux = jnp.mean(x, axis=(1, 2))
        x = BlockE(neighbour_mean, name="Mixed_7b")(BlockD(name="Mixed_7a")(x))
        pool = jnp.mean(BlockE(neighbour_max, name="Mixed_7c")(x), axis=(1, 2))
        logits = nn.Dense(NUM_LOGITS, use_bias=False, precision=_FLOAT32, name="fc")(pool)
        return InceptionFeatures(pool, logits, spatial, pre_aux)
