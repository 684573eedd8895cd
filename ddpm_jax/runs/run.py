"""A trained run opened for use: its configuration, its parameters, and what can be made of them, mainly its images.

Read next: `chain.py`, `diffusion/samplers/driver.py`.
"""

import copy
import difflib
import json
import os
from typing import Any, Literal, Self

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from numpy.typing import ArrayLike

from ddpm_jax import errors, factory
from ddpm_jax.config import changes, flatten, from_json, in_words, to_json
from ddpm_jax.data.classes import usable_names
from ddpm_jax.data.source import Source
from ddpm_jax.diffusion.samplers import repaint
from ddpm_jax.errors import UserError, check_counts, listed
from ddpm_jax.factory.models import ParametricDenoiser
from ddpm_jax.runs.chain import Chain, draw
from ddpm_jax.runtime.devices import device_mesh, replicated
from ddpm_jax.runtime.paths import as_flag, run_folder
from ddpm_jax.runtime.progress import progress_bar
from ddpm_jax.training import integrity, restoring


class Run:
    """A trained run opened for sampling: everything is read from its work directory.

    Args:
      workdir: the run's directory.
      params: "ema" for the averaged parameters, "raw" for the trained ones.

    Raises:
      UserError: there is no run, or no checkpoint yet.

    Attributes:
      workdir, params_name: as the arguments.
      step: the training step of the checkpoint.
      config: the run's configuration, whose part `sample` may be changed by `configure`.
      params: the parameters, on the devices; `{"denoiser", "classifier"}` once a classifier guides the run.
      model: the network.
      shape: shape of an image, `(H, W, C)`.
      mesh: the devices.
      classifier: the `Run` that guides this one, or None.
      inpainting: the image and the mask of `inpaint`, or None.
    """

    def __init__(self, workdir: str | os.PathLike[str], *, params: Literal["ema", "raw"] = "ema") -> None:
        workdir = run_folder(workdir)
        if not workdir.is_dir():
            beside = [str(path.parent) for path in workdir.parent.glob("*/checkpoints")]
            near = difflib.get_close_matches(str(workdir), beside, n=1, cutoff=0.8)
            hint = f"did you mean {near[0]}? Or train one" if near else "train one"
            train = f"{errors.program('train')} {as_flag('workdir', workdir)}"
            raise UserError(f"there is no run in {workdir}; {hint} with: {train}")
        self.workdir, self.params_name, self.mesh = workdir, params, device_mesh()
        name = {"ema": "ema_params", "raw": "params"}[params]
        self.step, stored, self.params = restoring.restore_params(workdir, self._shapes, name=name)
        self.config = from_json(stored)
        data = self.config.data
        self.shape = (data.image_size, data.image_size, data.channels)
        self.model = factory.network(self.config)
        if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(self.params)):
            raise UserError(f"the weights in {workdir} have other names than in this version: train the run again")
        self.classifier: Run | None = None
        self.inpainting: tuple[ArrayLike, ArrayLike] | None = None
        self._compiled: dict[str | int, Any] = {}  # chains by their settings, log_probs by the number of samples

    def _shapes(self, stored: dict[str, Any]) -> Any:
        """The shapes of the parameters that a configuration (JSON) describes, replicated on every device."""
        config = from_json(stored)
        shapes = jax.eval_shape(factory.initial_params(config, factory.network(config)), jax.random.key(0))
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(self.mesh)), shapes)

    def configure(self, **settings: Any) -> Self:
        """Changes keys of `config.sample`, except where the value is None; returns the run.

        Labels are a list of names or numbers separated by commas, see `classes.indices`, or an index, or a sequence of
        indices.

        Raises:
          UserError: there is no such key, its value has another type, or it does not suit this run; nothing is changed.
        """
        config = copy.deepcopy(self.config)
        for key, value in settings.items():
            if key not in config.sample:
                near = difflib.get_close_matches(key, config.sample, n=1)
                known = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(config.sample)}"
                raise UserError(f"there is no sampling setting {key!r}; {known}")
            if key == "labels" and value is not None and not isinstance(value, str):
                value = ",".join(f"#{int(label)}" for label in np.ravel(value))
            if value is not None:
                try:
                    config.sample[key] = value
                except TypeError as error:
                    raise UserError(f"{key}={value!r} must be of type {type(config.sample[key]).__name__}") from error
        if config.task == "denoise":
            factory.check_sampling(config)
        if self.num_classes:  # otherwise a classifier may still bring the classes
            labels_of(config, classifier=self.classifier)
        self.config = config
        return self

    def guide(self, classifier: "Run") -> Self:
        """Lets the `Run` of a classifier guide the chains of this run; returns this run.

        Raises:
          UserError: that run is not a classifier, or its images, its noise schedule or its classes are others.
        """
        if classifier.config.task != "classify":
            raise UserError(f"{classifier.workdir} is not the run of a classifier: train one with config.task=classify")
        clashes = changes(*_kinship(self.config, classifier.config))
        if clashes:
            raise UserError(
                f"{classifier.workdir} classifies other images than {self.workdir} draws: {in_words(clashes)}"
            )
        own = self.params["denoiser"] if self.classifier else self.params
        self.classifier, self.params = classifier, {"denoiser": own, "classifier": classifier.params}
        self._compiled.clear()
        return self

    def inpaint(self, image: ArrayLike, known: ArrayLike) -> Self:
        """Lets the chains keep the known part of an image; returns this run.

        Args:
          image: `[H, W, C]` in [-1, 1] (`editing.read_picture` reads one).
          known: 1 where it is kept and 0 where it is drawn, `[H, W, 1]` (`editing.read_mask` reads one).
        """
        self.inpainting = (image, known)
        self._compiled.clear()
        return self

    def source(self, split: str = "test") -> Source:
        """The images of a split of the run's data set, see `factory.source`; a folder has one split.

        Their classes are numbered as those of the run, by name.

        Raises:
          UserError: as `factory.source`.
        """
        config = copy.deepcopy(self.config)
        config.data.split = split
        source, labels = factory.source(config), config.labels
        names = usable_names(source, labels.num_classes)
        if names and not labels.names and names != tuple(map(str, range(len(names)))):
            print(f"note: the run has no class names; those of the data are used, from 0: {listed(names)}", flush=True)
        return source

    @property
    def num_classes(self) -> int:
        """The number of classes that can be chosen: those of the classifier that guides the run, or its own."""
        return (self.classifier or self).config.labels.num_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of these classes, or () where they are not known."""
        return names_of(self.config, classifier=self.classifier)

    def labels(self) -> tuple[int, ...]:
        """The classes that the images take in turn, as integers; () for an unconditional model."""
        return labels_of(self.config, classifier=self.classifier)

    def digest(self) -> str:
        """Sixteen hexadecimal digits that identify this network by its settings and its parameters.

        A run that is moved, renamed or copied keeps them; one that is trained further, or trained again, has others.
        """
        settings, own = to_json(self.config), self.params["denoiser"] if self.classifier else self.params
        groups = {group: settings[group] for group in ("task", "diffusion", "model", "posterior")}
        return integrity.fingerprint(own, groups)

    def denoiser(self) -> ParametricDenoiser:
        """A function `(params, label)` to the run's `Denoiser`, clipped and guided as the run is configured.

        Raises:
          UserError: the run is a classifier.
        """
        self._must_draw()
        return denoiser_of(copy.deepcopy(self.config), self.model, classifier=self.classifier)

    def log_probs(self, images: ArrayLike, *, t: float = 1) -> np.ndarray:
        """A classifier's predictions for noisy images, `log p(k | x_t, w)` `[S, N, K]`, at S samples of its weights.

        S is 1 where no weight is random. `bayes.predictive_log_prob` averages them, `bayes.uncertainty` compares them.

        Args:
          images: `[N, H, W, C]`, x_t; clean images in [-1, 1] are given with t = 1.
          t: the time, a number in [1, T].

        Raises:
          UserError: the run is not a classifier.
        """
        if self.config.task != "classify":
            raise UserError(f"{self.workdir} is the run of a denoiser, which does not predict classes")
        name, level = self.config.posterior.num_samples, factory.noise_schedule(self.config).level(t)
        if name not in self._compiled:
            samples = factory.classifier_samples(copy.deepcopy(self.config), self.model)
            self._compiled[name] = jax.jit(lambda params, x, level: samples(params)(x, level))
        images, level = np.asarray(images, np.float32), jax.tree.map(np.float32, level)
        return np.asarray(self._compiled[name](self.params, images, level))

    def chain(self, num_steps: int = 0) -> Chain:
        """The compiled chain of the run's sampler; `num_steps` 0 takes as many as its configuration says.

        A second chain that differs only in settings that are inputs of the compiled one shares its programs.

        Raises:
          UserError: the run is a classifier, or its configuration makes no such chain.
        """
        self._must_draw()
        config, steps = copy.deepcopy(self.config), num_steps or self.config.sample.num_steps
        settings = factory.sampler_settings(config)
        scale = settings["guidance_scale"]
        guides = [scale if scale in (0, 1) else "more", bool(settings["classifier_scale"])]  # another program each
        inputs = dict.fromkeys([*settings, "labels"])
        name = json.dumps([steps, {**to_json(config.sample), **inputs}, guides])
        labels = labels_of(config, classifier=self.classifier)
        if name not in self._compiled:
            changes = {"classifier": self.classifier, "inpainting": self.inpainting}
            self._compiled[name] = chain_of(config, self.model, num_steps=steps, mesh=self.mesh, **changes)
        return self._compiled[name].varied(settings=settings, labels=labels)

    def draw(self, num_images: int, *, seed: int = 0, num_steps: int = 0, batch_size: int = 64) -> np.ndarray:
        """Draws images; image i depends on the seed and on i alone.

        Args:
          num_images: N, the number of images.
          seed: integer.
          num_steps: number of steps of the chain; 0 takes what the run's configuration says.
          batch_size: images at a time.

        Returns:
          `[N, H, W, C]` uint8.

        Raises:
          UserError: as `chain`; or `num_images` or `batch_size` is less than 1.
        """
        check_counts(num_images=num_images, batch_size=batch_size)
        options = {"seed": seed, "batch_size": min(batch_size, num_images)}
        return draw(self.chain(num_steps), self.params, indices=np.arange(num_images), **options)

    def trajectory(
        self, num_images: int, *, seed: int = 0, num_steps: int = 0, num_frames: int = 60
    ) -> tuple[np.ndarray, np.ndarray]:
        """The chain of the images that `draw` gives: about `num_frames` falling times, and x at each of them.

        Returns:
          `[F]` times and `[F, N, H, W, C]` float32, from noise to images.

        Raises:
          UserError: as `chain`; or `num_images` or `num_frames` is less than 1.
        """
        check_counts(num_images=num_images, num_frames=num_frames)
        chain = self.chain(num_steps)
        with progress_bar(chain.num_moves, "trajectory", unit="step") as bar:
            key, indices = jax.random.key(seed), np.arange(num_images)
            frames = chain(self.params, key, indices=indices, num_frames=num_frames, progress=bar.update)
        return chain.frame_times(num_frames), frames

    def _must_draw(self) -> None:
        """Raises a UserError where the run is a classifier."""
        if self.config.task != "denoise":
            raise UserError(
                f"{self.workdir} is the run of a classifier, which cannot draw images; give it as --classifier_workdir"
            )


def _kinship(*configs: ConfigDict) -> list[dict[str, Any]]:
    """The keys in which a denoiser and a classifier that guides it must agree, with their values in each configuration.

    These are the size and the noise schedule of the images, and their classes if both have classes; if the
    images of both are data sets of tensorflow-datasets, also which data set. The path of the images does not matter.
    """
    keys = ["data.image_size", "data.channels"]
    first, second = (factory.noise_schedule(config).alpha_bar for config in configs)
    if first.shape != second.shape or not np.allclose(first, second, rtol=1e-6, atol=0):
        keys += [f"diffusion.{key}" for key in ("schedule", "num_timesteps", "beta_start", "beta_end")]
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


def denoiser_of(config: ConfigDict, model: nn.Module, *, classifier: Run | None = None) -> ParametricDenoiser:
    """The denoiser that a configuration describes, guided by the `Run` of a classifier, or by none where it is None."""
    guide = classifier and factory.classifier(classifier.config, classifier.model)
    return factory.denoiser(config, model, classifier=guide)


def labels_of(config: ConfigDict, *, classifier: Run | None = None) -> tuple[int, ...]:
    """The classes that a configuration chooses, as for `Chain`: its own, or those of the `Run` that guides it.

    Raises:
      UserError: there is no such class, or the null label is chosen for a run that a classifier guides.
    """
    if classifier and config.sample.labels == "none":
        raise UserError("--labels=none cannot be combined with a classifier; choose a class for it")
    num_classes = (classifier.config if classifier else config).labels.num_classes
    return factory.labels(config, num_classes, names=names_of(config, classifier=classifier))


def names_of(config: ConfigDict, *, classifier: Run | None = None) -> tuple[str, ...]:
    """The names of the classes that can be chosen, as for `labels_of`; () where they are not known."""
    labels, own = (classifier.config if classifier else config).labels, config.labels
    return tuple(labels.names or (own.names if own.num_classes == labels.num_classes else ()))


def chain_of(
    config: ConfigDict,
    model: nn.Module,
    *,
    num_steps: int,
    mesh: Mesh,
    classifier: Run | None = None,
    inpainting: tuple[ArrayLike, ArrayLike] | None = None,
) -> Chain:
    """The `Chain` that a configuration describes.

    Args:
      config: configuration.
      model: its network.
      num_steps: number of steps, 0 for all T.
      mesh: the devices.
      classifier: `Run` of the classifier that guides it, or None.
      inpainting: `(image, known)` as for `repaint`, or None.
    """
    data, sampler = config.data, factory.sampler(config)
    return Chain(
        sampler if inpainting is None else lambda settings: repaint(sampler(settings), *inpainting),
        denoiser_of(config, model, classifier=classifier),
        settings=factory.sampler_settings(config),
        transitions=factory.sampling_transitions(config, num_steps),
        shape=(data.image_size, data.image_size, data.channels),
        mesh=mesh,
        labels=labels_of(config, classifier=classifier),
    )
