"""Feature extractors: what stands between images and a number such as FID, with the protocol that makes it comparable.

Two numbers can be compared only if their features were made in the same way: the same network, weights, resize and
normalisation. An `Extractor` therefore has its protocol, which is stored with every result and every reference, and a
number is refused where the two differ. Here are the extractors that need no download. Read next: `published.py` for
those of published networks, `feature_sets.py`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ddpm_jax.config import denoises
from ddpm_jax.diffusion.bayes import MeanField
from ddpm_jax.errors import UserError
from ddpm_jax.runs.run import Run


class Extractor(NamedTuple):
    """A function from images to features.

    Attributes:
      apply: function `(params, images)` of uint8 images `[B, H, W, C]` to `{output: features [B, D]}`, float32.
      params: its parameters.
      outputs: the names of the features: "pool" always; "logits" for the Inception score; "spatial" for sFID.
      protocol: how the features are made, as text by name; two feature sets are comparable if it is equal.
    """

    apply: Callable[[Any, jax.Array], dict[str, jax.Array]]
    params: Any
    outputs: tuple[str, ...]
    protocol: Mapping[str, str]


def of_pixels() -> Extractor:
    """The pixels themselves, in [-1, 1]: they need no network, and see what is blurred or shrunk on small images."""

    def apply(params: Any, images: jax.Array) -> dict[str, jax.Array]:
        return {"pool": _scaled(images).reshape(len(images), -1)}

    return Extractor(apply, {}, ("pool",), {"features": "pixels", "scale": "u / 127.5 - 1"})


def of_classifier(run: Run) -> Extractor:
    """The features of a classifier of noisy images, before its last layer, at the smallest noise level t = 1.

    A posterior over its weights is replaced by its mean.

    Raises:
      UserError: the run is not a classifier.
    """
    if denoises(run.config):
        raise UserError(f"{run.workdir} is not the run of a classifier: features need config.task=classify")
    model, shape = run.model, run.shape

    def apply(params: Any, images: jax.Array) -> dict[str, jax.Array]:
        if images.shape[1:] != shape:
            raise UserError(f"the classifier is for images {list(shape)}, and these are {list(images.shape[1:])}")
        index = jnp.zeros(len(images))
        logits, state = model.apply({"params": params}, _scaled(images), index, mutable=["intermediates"])
        [pooled] = jax.tree.leaves(state)
        return {"pool": pooled, "logits": logits}

    params = run.params.mean if isinstance(run.params, MeanField) else run.params
    return Extractor(apply, params, ("pool", "logits"), {"features": "classifier", "weights": run.digest()})


def _scaled(images: jax.Array) -> jax.Array:
    """Images of 8 bits as float32 in [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1
