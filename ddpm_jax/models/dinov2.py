"""The vision transformer of DINOv2, a feature network: its normalised class token describes an image.

A patch of [Oquab et al. 2023](https://arxiv.org/abs/2304.07193) has 14x14 pixels, and the positions of the published
weights are for images of 518x518 pixels. The Frechet distance between such features is FD-DINOv2
([Stein et al. 2023](https://arxiv.org/abs/2306.04675)), which feeds images of 224x224 pixels to ViT-L/14. ViT-B/14 is
`DINOv2()`, ViT-L/14 is `DINOv2(width=1024, depth=24, heads=16)`. There are no register tokens.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

PATCH = 14  # pixels along each side of a patch
MEAN = (0.485, 0.456, 0.406)  # of ImageNet's red, green and blue, where 1 is white
STD = (0.229, 0.224, 0.225)

_OFFSET = 0.1  # which the original adds to the number of patches before it computes the scale
_A = -0.75  # the slope of the cubic kernel at distance 1, which PyTorch uses


def normalised(images: ArrayLike) -> jax.Array:
    r"""Images `[..., 3]` with values v in [0, 255] as the network expects them, float32 of the same shape.

    $$ x = \frac{v / 255 - \mu}{\sigma} $$

    The mean and the standard deviation are those of ImageNet, for each colour.
    """
    mean, std = jnp.array(MEAN, jnp.float32), jnp.array(STD, jnp.float32)
    return (jnp.asarray(images, jnp.float32) / 255 - mean) / std


def position_weights(size: int, grid: int) -> np.ndarray:
    r"""The weights `[size, grid]`, float64, that interpolate the positions of `grid` patches at `size` patches.

    $$ w_{ij} = \sum_{k : c(k) = j} W(u_i - k), \qquad
       u_i = \frac{grid}{size + 0.1}\left(i + \tfrac12\right) - \tfrac12, \qquad
       c(k) = \min(\max(k, 0), grid - 1) $$

    with the cubic kernel of [Keys 1981](https://doi.org/10.1109/TASSP.1981.1163711) for a = -3/4,

    $$ W(s) = (a + 2) |s|^3 - (a + 3) |s|^2 + 1 \text{ for } |s| \le 1, \qquad
       W(s) = a (|s|^3 - 5 |s|^2 + 8 |s| - 4) \text{ for } 1 < |s| < 2 $$

    and without antialiasing: every row has four weights, whose sum is 1. The 0.1 is the original's, which calls
    `interpolate(scale_factor=(size + 0.1) / grid, mode="bicubic")`.
    """
    centres = (np.arange(size) + 0.5) * grid / (size + _OFFSET) - 0.5
    neighbours = np.floor(centres)[:, None] + np.arange(-1, 3)  # [size, 4]
    distance = np.abs(centres[:, None] - neighbours)
    near = ((_A + 2) * distance - (_A + 3)) * distance**2 + 1
    far = _A * (((distance - 5) * distance + 8) * distance - 4)
    weights = np.zeros((size, grid))
    columns = np.clip(neighbours, 0, grid - 1).astype(int)
    np.add.at(weights, (np.arange(size)[:, None], columns), np.where(distance <= 1, near, far))
    return weights


def interpolated(positions: jax.Array, height: int, width: int) -> jax.Array:
    r"""The position embedding at another grid, `[1, 1 + height width, D]`.

    $$ P = A_{height}\, E\, A_{width}^\top $$

    for each channel E of the embedding, with `position_weights` as A. At the embedding's own square grid P is E itself.
    The class token's position never changes.

    Args:
      positions: `[1, 1 + grid grid, D]`, the class token's position and then those of the patches by rows.
      height, width: numbers of patches, 1 or more.
    """
    grid = round((positions.shape[1] - 1) ** 0.5)
    if height == width == grid:
        return positions
    rows, columns = (position_weights(size, grid).astype(np.float32) for size in (height, width))
    patches = positions[:, 1:].reshape(1, grid, grid, -1)
    patches = jnp.einsum("hi,wj,bijc->bhwc", rows, columns, patches).reshape(1, height * width, -1)
    return jnp.concatenate([positions[:, :1], patches], axis=1)


class Block(nn.Module):
    r"""A block of the transformer: self-attention, then two linear maps with the exact GELU between them.

    $$ y = x + \gamma_0\, \mathrm{attention}(\mathrm{norm}(x)), \qquad
       z = y + \gamma_1\, \mathrm{mlp}(\mathrm{norm}(y)) $$

    The factors of each channel (LayerScale) are those of [Touvron et al. 2021](https://arxiv.org/abs/2103.17239).

    Attributes:
      heads: number of attention heads, a divisor of the number of channels.
    """

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens x `[B, N, D]` to the same shape."""
        batch, tokens, channels = x.shape
        h = nn.Dense(3 * channels, name="qkv")(_norm("norm_0")(x))
        h = h.reshape(batch, tokens, 3, self.heads, channels // self.heads)
        h = jax.nn.dot_product_attention(h[:, :, 0], h[:, :, 1], h[:, :, 2]).reshape(x.shape)
        x = x + self.param("scale_0", nn.initializers.ones, (channels,)) * nn.Dense(channels, name="out")(h)
        h = nn.Dense(4 * channels, name="dense_0")(_norm("norm_1")(x))
        h = nn.Dense(channels, name="dense_1")(nn.gelu(h, approximate=False))
        return x + self.param("scale_1", nn.initializers.ones, (channels,)) * h


class DINOv2(nn.Module):
    """The network; all products are computed in float32 on every device, so that features do not depend on it.

    Attributes:
      width: number of channels D of a token.
      depth: number of blocks.
      heads: number of attention heads, a divisor of `width`.
      grid: patches along each side of the images that the position embedding is for.
    """

    width: int = 768
    depth: int = 12
    heads: int = 12
    grid: int = 37

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images x `[B, H, W, 3]`, which `normalised` returns, to the normalised class token `[B, D]`, float32.

        Raises:
          ValueError: H or W is not a multiple of 14, or there are not three colours.
        """
        if x.ndim != 4 or x.shape[3] != 3 or x.shape[1] % PATCH or x.shape[2] % PATCH:
            raise ValueError(f"images must be [B, H, W, 3] with sides divisible by {PATCH}, got {x.shape}")
        init, token = nn.initializers.normal(0.02), (1, 1, self.width)
        with jax.default_matmul_precision("float32"):
            h = nn.Conv(self.width, (PATCH, PATCH), (PATCH, PATCH), "VALID", name="patches")(x.astype(jnp.float32))
            batch, rows, columns, _ = h.shape
            first = jnp.broadcast_to(self.param("class_token", init, token), (batch, *token[1:]))
            positions = self.param("positions", init, (1, 1 + self.grid**2, self.width))
            h = jnp.concatenate([first, h.reshape(batch, rows * columns, -1)], axis=1)
            h = h + interpolated(positions, rows, columns)
            for i in range(self.depth):
                h = Block(self.heads, name=f"block_{i}")(h)
            return _norm("norm")(h[:, 0])


def _norm(name: str) -> nn.LayerNorm:
    """LayerNorm of the last axis."""
    return nn.LayerNorm(epsilon=1e-6, use_fast_variance=False, name=name)
