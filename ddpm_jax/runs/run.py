"""A trained run opened: its configuration, its parameters, and what can be made of them, first of all its images.

Read next: `chain.py`, `diffusion/samplers/driver.py`.
"""

import copy
import difflib
import json
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ddpm_jax import factory, errors
from ddpm_jax.training import integrity, restoring
from ddpm_jax.runs.chain import Chain, draw
from ddpm_jax.data.classes import usable_names
from ddpm_jax.config import changes, flatten, from_json, in_words, to_json
from ddpm_jax.errors import UserError, listed
from ddpm_jax.runtime.devices import device_mesh, replicated
from ddpm_jax.runtime.paths import as_flag, run_folder
from ddpm_jax.runtime.progress import progress_bar
from ddpm_jax.diffusion.samplers import repaint


class Run:
    """A trained run opened for sampling: everything is read from its work directory.

    Args:
      workdir: the run's directory.
      params: "ema" for the averaged parameters, "raw" for the trained ones.

    Raises:
      UserError: there is no run, or no checkpoint yet.
    """

    def __init__(self, workdir, *, params="ema"):
        workdir = run_folder(workdir)
        if not workdir.is_dir():
            raise UserError(
                f"there is no run in {workdir}; train one with: {errors.program('train')} {as_flag('workdir', workdir)}"
            )
        self.workdir, self.params_name, self.mesh = workdir, params, device_mesh()
        name = {"ema": "ema_params", "raw": "params"}[params]
        self.step, stored, self.params = restoring.restore_params(workdir, self._shapes, name=name)
        self.config = from_json(stored)
        data = self.config.data
        self.shape = (data.image_size, data.image_size, data.channels)
        self.model = factory.network(self.config)
        if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(self.params)):
            raise UserError(f"{workdir} holds weights under other names than this version's: train it anew")
        self.classifier, self.inpainting, self._compiled = None, None, {}

    def _shapes(self, stored: dict[str, Any]) -> Any:
        """Of the parameters that a configuration (JSON) describes, whole on every device."""
        config = from_json(stored)
        shapes = jax.eval_shape(factory.initial_params(config, factory.network(config)), jax.random.key(0))
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(self.mesh)), shapes)

    def configure(self, **settings):
        """Changes keys of `config.sample`, leaving out those that are None; returns the run.

        Labels are a comma list of names or numbers, see `classes.indices`, or an index or a sequence of indices.

        Raises:
          UserError: there is no such key, or its value is of another kind.
        """
        for key, value in settings.items():
            if key not in self.config.sample:
                near = difflib.get_close_matches(key, self.config.sample, n=1)
                known = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(self.config.sample)}"
                raise UserError(f"there is no setting {key!r} of sampling; {known}")
            if key == "labels" and value is not None and not isinstance(value, str):
                value = ",".join(f"#{int(label)}" for label in np.ravel(value))
            if value is not None:
                try:
                    self.config.sample[key] = value
                except TypeError as error:
                    raise UserError(f"{key}={value!r} is no {type(self.config.sample[key]).__name__}") from error
        return self

    def guide(self, classifier):
        """Has the `Run` of a classifier guide this one's chains; returns this run.

        Raises:
          UserError: that is no classifier, or one of other images, other noise or other classes.
        """
        if classifier.config.task != "classify":
            raise UserError(f"{classifier.workdir} holds no classifier: train one with config.task=classify")
        clashes = changes(*_kinship(self.config, classifier.config))
        if clashes:
            raise UserError(f"{classifier.workdir} classifies other images than {self.workdir}: {in_words(clashes)}")
        own = self.params["denoiser"] if self.classifier else self.params
        self.classifier, self.params = classifier, {"denoiser": own, "classifier": classifier.params}
        self._compiled.clear()
        return self

    def inpaint(self, image, known):
        """Has the chains keep the known part of an image; returns this run.

        Args:
          image: `[H, W, C]` in [-1, 1] (`editing.read_picture` reads one).
          known: 1 where it is kept and 0 where it is drawn, `[H, W, 1]` (`editing.read_mask`).
        """
        self.inpainting = (image, known)
        self._compiled.clear()
        return self

    def source(self, split="test"):
        """The images of a split of the run's data set, see `factory.source`; a folder has one split.

        Their classes are numbered as the run's are, by name.
        """
        config = copy.deepcopy(self.config)
        config.data.split = split
        source, labels = factory.source(config), config.labels
        names = usable_names(source, labels.num_classes)
        if names and not labels.names and names != tuple(map(str, range(len(names)))):
            print(f"note: the run has no class names; those of the data are taken, from 0: {listed(names)}", flush=True)
        return source

    @property
    def num_classes(self) -> int:
        """How many classes can be asked for: those of the classifier that guides the run, or its own."""
        return (self.classifier or self).config.labels.num_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """Their names, or () where they are not known."""
        return names_of(self.config, classifier=self.classifier)

    def labels(self) -> tuple[int, ...]:
        """The classes that images are drawn of in turn, as their numbers; () for a model without classes."""
        return labels_of(self.config, classifier=self.classifier)

    def digest(self) -> str:
        """Sixteen hexadecimal digits that tell this network from others: its settings and its parameters.

        A run that is moved, renamed or copied keeps them; one that is trained on, or trained anew, has others.
        """
        settings, own = to_json(self.config), self.params["denoiser"] if self.classifier else self.params
        groups = {group: settings[group] for group in ("task", "diffusion", "model", "posterior")}
        return integrity.fingerprint(own, groups)

    def denoiser(self):
        """A function `(params, label)` to the run's `Denoiser`, clipped and guided as the run is."""
        self._must_draw()
        return denoiser_of(copy.deepcopy(self.config), self.model, classifier=self.classifier)

    def log_probs(self, images, *, t=1):
        """What a classifier says of noisy images, `log p(k | x_t, w)` `[S, N, K]`, at S samples of its weights.

        S is 1 where no weight is random. `bayes.predictive_log_prob` averages them, `bayes.uncertainty` compares them.

        Args:
          images: `[N, H, W, C]` in [-1, 1].
          t: time, a number.
        """
        if self.config.task != "classify":
            raise UserError(f"{self.workdir} holds a denoiser, which tells no classes")
        name, level = self.config.posterior.num_samples, factory.noise_schedule(self.config).level(t)
        if name not in self._compiled:
            samples = factory.classifier_samples(copy.deepcopy(self.config), self.model)
            self._compiled[name] = jax.jit(lambda params, x, level: samples(params)(x, level))
        images, level = np.asarray(images, np.float32), jax.tree.map(np.float32, level)
        return np.asarray(self._compiled[name](self.params, images, level))

    def chain(self, num_steps=0):
        """The compiled chain of the run's sampler; `num_steps` 0 takes as many as its configuration says.

        The same settings, or others that are inputs of the compiled chain, give the same programs again.
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

    def draw(self, num_images, *, seed=0, num_steps=0, batch_size=64):
        """Draws images; image i depends on the seed and on i alone.

        Args:
          num_images: how many.
          seed: integer.
          num_steps: of the chain; 0 takes what the run's configuration says.
          batch_size: images at a time.

        Returns:
          `[N, H, W, C]` uint8.
        """
        options = {"seed": seed, "batch_size": min(batch_size, num_images)}
        return draw(self.chain(num_steps), self.params, indices=np.arange(num_images), **options)

    def trajectory(self, num_images, *, seed=0, num_steps=0, num_frames=60):
        """The chain of the images that `draw` gives: about `num_frames` times, falling, and x at each in [-1, 1].

        Returns:
          `[F]` times and `[F, N, H, W, C]` float32, from noise to images.
        """
        chain = self.chain(num_steps)
        with progress_bar(chain.num_moves, "trajectory", unit="move") as bar:
            key, indices = jax.random.key(seed), np.arange(num_images)
            frames = chain(self.params, key, indices=indices, num_frames=num_frames, progress=bar.update)
        return chain.frame_times(num_frames), frames

    def _must_draw(self):
        """Refuses a classifier."""
        if self.config.task != "denoise":
            raise UserError(
                f"{self.workdir} holds a classifier, which draws no images; give it as --classifier_workdir"
            )


def _kinship(*configs: ConfigDict) -> list[dict]:
    """What a denoiser and a classifier that guides it must have in common, a dict of each.

    Size and noise of the images, and their classes if both are conditioned on them; of one collection of data sets also
    which of them. Where the images lie has no part in it.
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


def denoiser_of(config, model, *, classifier=None):
    """The denoiser that a configuration describes, guided by the `Run` of a classifier or by none."""
    guide = classifier and factory.classifier(classifier.config, classifier.model)
    return factory.denoiser(config, model, classifier=guide)


def labels_of(config, *, classifier=None):
    """The classes that a configuration asks for, as for `Chain`: of its own, or of the `Run` that guides it."""
    if classifier and config.sample.labels == "none":
        raise UserError("--labels=none leaves a classifier nothing to ask for; give it a class")
    num_classes = (classifier.config if classifier else config).labels.num_classes
    return factory.labels(config, num_classes, names=names_of(config, classifier=classifier))


def names_of(config: ConfigDict, *, classifier: Run | None = None) -> tuple[str, ...]:
    """The names of the classes that can be asked for, as for `labels_of`; () where they are not known."""
    labels, own = (classifier.config if classifier else config).labels, config.labels
    return tuple(labels.names or (own.names if own.num_classes == labels.num_classes else ()))


def chain_of(config, model, *, num_steps, mesh, classifier=None, inpainting=None):
    """The `Chain` that a configuration describes.

    Args:
      config: configuration.
      model: its network.
      num_steps: moves, 0 for all T.
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
