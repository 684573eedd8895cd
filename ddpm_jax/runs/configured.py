"""The denoiser, the labels and the chain that the configuration of a run describes, with or without a classifier.

Read next: `chain.py`, `factory/chains.py`.
"""

import copy
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, Protocol

import flax.linen as nn
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from numpy.typing import ArrayLike

from ddpm_jax import factory
from ddpm_jax.config import denoises, editable, flatten, to_json
from ddpm_jax.data.classes import position
from ddpm_jax.diffusion.arrays import AnyArray
from ddpm_jax.diffusion.samplers import Sampler, repaint
from ddpm_jax.diffusion.sequences import ChainFit
from ddpm_jax.errors import UserError, did_you_mean, shortened
from ddpm_jax.factory.models import ParametricDenoiser
from ddpm_jax.runs.chain import Chain, CompiledChain


class Opened(Protocol):
    """What is read here of an opened `Run`: its configuration and its network."""

    config: ConfigDict
    model: nn.Module


def kinship(*configs: ConfigDict) -> list[dict[str, Any]]:
    """The keys in which a denoiser and a classifier that guides it must agree, with their values in each configuration.

    These are the size and the noise schedule of the images, and their classes if both have classes; if the
    images of both are data sets of tensorflow-datasets, also which data set. The path of the images does not matter.
    """
    keys = ["data.image_size", "data.channels"]
    first, second = (factory.noise_schedule(config).alpha_bar for config in configs)
    if first.shape != second.shape or not np.allclose(first, second, rtol=1e-6, atol=0):
        keys += [f"diffusion.{key}" for key in ("schedule", "num_timesteps", "beta_start", "beta_end")]
        keys += [f"diffusion.{key}" for key in ("log_snr_first", "log_snr_last", "shift", "zero_terminal_snr")]
    conditional = all(config.labels.num_classes for config in configs)
    if conditional:
        keys += ["labels.num_classes"] + ["labels.names"] * all(config.labels.names for config in configs)
    if all(config.data.source == "tfds" for config in configs):
        keys += ["data.name", "data.crop"] + ["data.label"] * conditional
    known = [{key: flatten(to_json(config))[key] for key in keys} for config in configs]
    for one in known:
        if "data.name" in one:
            one["data.name"] = one["data.name"].partition(":")[0]  # without its version
    return known


def denoiser_of(
    config: ConfigDict, model: nn.Module, *, classifier: Opened | None = None, fit: ChainFit | None = None
) -> ParametricDenoiser:
    """The denoiser that a configuration describes.

    Args:
      config: configuration.
      model: its network.
      classifier: the `Run` of the classifier that guides it, or None.
      fit: what was measured of the run, where its variance or its grid needs it, or None.
    """
    guide = factory.classifier(classifier.config, classifier.model) if classifier else None
    return factory.denoiser(config, model, classifier=guide, fit=fit)


def labels_of(config: ConfigDict, *, classifier: Opened | None = None) -> tuple[int, ...]:
    """The classes that a configuration chooses, as for `Chain`: its own, or those of the `Run` that guides it.

    Raises:
      UserError: there is no such class, or the null label is chosen for a run that a classifier guides.
    """
    if classifier and config.sample.labels == "none":
        raise UserError("labels=none cannot be combined with a classifier; choose a class for it")
    num_classes = (classifier.config if classifier else config).labels.num_classes
    return factory.labels(config, num_classes, names=names_of(config, classifier=classifier))


def with_settings(config: ConfigDict, settings: Mapping[str, Any], *, classifier: Opened | None) -> ConfigDict:
    """A copy of a configuration with other values of keys of `config.sample`, as for `Run.configure`.

    Args:
      config: configuration.
      settings: the values by key; a key whose value is None stays as it is.
      classifier: the `Run` of the classifier that guides the run, or None.

    Raises:
      UserError: there is no such key, its value has another type, or it does not suit the run.
    """
    config = editable(config)
    for key, value in settings.items():
        if key not in config.sample:
            hint = did_you_mean(key, config.sample, otherwise=f"choose from {', '.join(config.sample)}")
            raise UserError(f"there is no sampling setting {key!r}; {hint}")
        if value is None:
            continue
        if key in ("classifier_scale", "classifier_on") and not classifier:
            raise UserError(
                f"{key}={shortened(repr(value))} has no effect without a classifier: call "
                "run.guide(Run(DIR)) with the run of one first"
            )
        if key == "labels" and not isinstance(value, str):
            value = labels_in_words(value, names_of(config, classifier=classifier))
        elif not isinstance(value, str) and np.ndim(value) == 0 and hasattr(value, "item"):
            value = value.item()  # a number of NumPy or JAX
        try:
            config.sample[key] = value
        except TypeError as error:
            own = "; give a Sampler to run.sample(sampler=...)" if key == "sampler" else ""
            kind = type(config.sample[key]).__name__
            raise UserError(f"{key}={shortened(repr(value))} must be of type {kind}{own}") from error
    if denoises(config):
        factory.check_sampling(config)
    labels_of(config, classifier=classifier)
    return config


def labels_in_words(labels: ArrayLike, names: Sequence[str] = ()) -> str:
    """Labels given as an index, or as a sequence of names or indices, in the form of `config.sample.labels`.

    Raises:
      UserError: the sequence is empty, or an entry is neither a name nor a whole number.
    """
    entries = np.ravel(np.asarray(labels, object)).tolist()
    wrong = [entry for entry in entries if isinstance(entry, bool) or not isinstance(entry, str | Integral)]
    wrong += [entry for entry in entries if isinstance(entry, str) and "," in entry and entry not in names]
    if wrong or not entries:
        got = f"not {shortened(repr(wrong[0]))}" if wrong else 'at least one; "" takes every class'
        raise UserError(f"labels must be names or whole numbers, {got}")
    indices = [position(entry, names) if isinstance(entry, str) else int(entry) for entry in entries]
    return ",".join(str(entry) if i is None else f"#{i}" for entry, i in zip(entries, indices, strict=True))


def names_of(config: ConfigDict, *, classifier: Opened | None = None) -> tuple[str, ...]:
    """The names of the classes that can be chosen, as for `labels_of`; () where they are not known."""
    labels, own = (classifier.config if classifier else config).labels, config.labels
    return tuple(labels.names or (own.names if own.num_classes == labels.num_classes else ()))


def checked_image(image: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
    """An image in [-1, 1] of this shape `(H, W, C)` as an array.

    Raises:
      UserError: it does not have this shape, or its values are not floats in [-1, 1].
    """
    image = np.asarray(image)
    if image.shape != shape or not np.issubdtype(image.dtype, np.floating) or not np.abs(image).max() <= 1:
        raise UserError(
            f"the image must be {list(shape)} of floats in [-1, 1], and is {image.dtype} {list(image.shape)}; "
            "from_uint8 scales bytes"
        )
    return image


def checked_inpainting(image: ArrayLike, known: ArrayLike, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The image and the mask of `Run.inpaint` as arrays.

    Raises:
      UserError: they are not an image of this shape `(H, W, C)` in [-1, 1] and a mask in [0, 1] for it.
    """
    image, known = checked_image(image, shape), np.asarray(known, np.float32)
    if known.shape not in ((*shape[:2], 1), shape) or not (known >= 0).all() or not (known <= 1).all():
        raise UserError(
            f"known must be {[*shape[:2], 1]}, 1 where the image is kept and 0 where it is drawn, and has the "
            f"shape {list(known.shape)}"
        )
    return image, known


def chain_of(
    config: ConfigDict,
    model: nn.Module,
    *,
    num_steps: int,
    mesh: Mesh,
    sampler: Sampler | None = None,
    classifier: Opened | None = None,
    inpainting: tuple[AnyArray, AnyArray] | None = None,
    fit: ChainFit | None = None,
) -> Chain:
    """The `Chain` that a configuration describes.

    Args:
      config: configuration.
      model: its network.
      num_steps: number of steps, 0 for all T.
      mesh: the devices.
      sampler: a `Sampler` in place of the configured one, or None.
      classifier: `Run` of the classifier that guides it, or None.
      inpainting: `(image, known)` as for `repaint`, or None.
      fit: as for `denoiser_of`.
    """
    config, data = copy.deepcopy(config), config.data
    made = factory.sampler(config, sampler)
    compiled = CompiledChain(
        made if inpainting is None else lambda settings: repaint(made(settings), *inpainting),
        denoiser_of(config, model, classifier=classifier, fit=fit),
        transitions=factory.sampling_transitions(config, num_steps, fit),
        shape=(data.image_size, data.image_size, data.channels),
        mesh=mesh,
    )
    return Chain(compiled, factory.sampler_settings(config), labels_of(config, classifier=classifier))
