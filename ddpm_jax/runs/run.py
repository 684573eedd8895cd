"""A trained run opened for use: its configuration, its parameters, and what can be made of them, mainly its images.

Read next: `chain.py`, `diffusion/samplers/driver.py`.
"""

import copy
import os
from functools import partial
from typing import Any, Literal, Self

import flax.linen as nn
import jax
import numpy as np
from numpy.typing import ArrayLike

from ddpm_jax import factory
from ddpm_jax.config import CUSTOM, changes, denoises, from_json, in_words, not_one_of, to_json
from ddpm_jax.data.classes import usable_names
from ddpm_jax.data.source import Source
from ddpm_jax.diffusion.samplers import Sampler
from ddpm_jax.diffusion.schedules import Transition
from ddpm_jax.diffusion.sequences import ChainFit
from ddpm_jax.errors import UserError, check_counts, listed, shortened
from ddpm_jax.factory.models import ParametricDenoiser, Params
from ddpm_jax.runs import fitted
from ddpm_jax.runs.chain import Chain, CompiledChain, Frames, draw, root_key
from ddpm_jax.runs.configured import (
    chain_of,
    checked_inpainting,
    denoiser_of,
    kinship,
    labels_of,
    names_of,
    with_settings,
)
from ddpm_jax.runs.fitted import Fitted
from ddpm_jax.runs.opening import check_there, note_another
from ddpm_jax.runtime.devices import device_mesh, replicated
from ddpm_jax.runtime.paths import run_folder
from ddpm_jax.runtime.progress import progress_bar
from ddpm_jax.training import integrity, restoring

_PARAMS = {"ema": "ema_params", "raw": "params"}  # the name of either in a checkpoint
_MOST_CHAINS = 16  # compiled programs that a run keeps


class Run:
    """A trained run opened for sampling: everything is read from its work directory.

    Args:
      workdir: the run's directory.
      params: "ema" for the averaged parameters, "raw" for the trained ones.
      network: the linen module of a run that was trained with one from a program; None for every other run.

    Raises:
      UserError: there is no run, no checkpoint yet, or its network is another one.

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

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        *,
        params: Literal["ema", "raw"] = "ema",
        network: nn.Module | None = None,
    ) -> None:
        if params not in _PARAMS:
            raise UserError(f"params={shortened(repr(params))} {not_one_of(str(params), _PARAMS)}")
        workdir = run_folder(workdir)
        check_there(workdir)
        self.workdir, self.params_name, self.mesh = workdir, params, device_mesh()
        shapes = partial(self._shapes, network)
        self.step, stored, self.params = restoring.restore_params(workdir, shapes, name=_PARAMS[params])
        self.config = from_json(stored)
        note_another(network, self.config.given.network)
        data = self.config.data
        self.shape = (data.image_size, data.image_size, data.channels)
        self.model = factory.network(self.config, network)
        if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(self.params)):
            raise UserError(f"the weights in {workdir} have other names than in this version: train the run again")
        self.classifier: Run | None = None
        self.inpainting: tuple[np.ndarray, np.ndarray] | None = None
        self._compiled: dict[factory.ChainProgram, CompiledChain] = {}
        self._fitted: Fitted | None = None
        self._log_probs: dict[int, Any] = {}  # by the number of samples of the weights

    def _shapes(self, network: nn.Module | None, stored: dict[str, Any]) -> Params:
        """The shapes of the parameters that a configuration (JSON) describes, replicated on every device."""
        config = from_json(stored)
        model = factory.network(config, network)
        shapes = jax.eval_shape(factory.initial_params(config, model), jax.random.key(0))
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(self.mesh)), shapes)

    def configure(self, **settings: Any) -> Self:
        """Changes keys of `config.sample`, except where the value is None; returns the run.

        Labels are a list of names or numbers separated by commas, see `classes.indices`, or an index, or a sequence of
        names or indices. A classifier that brings the classes, or whose scale is set, guides the run first (`guide`).

        Raises:
          UserError: there is no such key, its value has another type, or it does not suit this run; nothing is changed.
        """
        self.config = with_settings(self.config, settings, classifier=self.classifier)
        return self

    def guide(self, classifier: "Run") -> Self:
        """Lets the `Run` of a classifier guide the chains of this run; returns this run.

        Raises:
          UserError: the argument is not the run of a classifier; its images, noise schedule or classes differ from
            those of this run; or it does not have the classes that `config.sample.labels` names.
        """
        if not isinstance(classifier, Run):
            raise UserError(f"guide needs an opened run of a classifier: Run({str(classifier)!r})")
        if denoises(classifier.config):
            raise UserError(f"{classifier.workdir} is not the run of a classifier: train one with config.task=classify")
        clashes = changes(*kinship(self.config, classifier.config))
        if clashes:
            raise UserError(
                f"{classifier.workdir} classifies other images than {self.workdir} draws: {in_words(clashes)}"
            )
        labels_of(self.config, classifier=classifier)
        own, self.classifier = self._own_params(), classifier
        self.params = {"denoiser": own, "classifier": classifier.params}
        self.forget_chains()
        return self

    def inpaint(self, image: ArrayLike, known: ArrayLike) -> Self:
        """Lets the chains keep the known part of an image; returns this run.

        Args:
          image: `[H, W, C]` in [-1, 1] (`editing.read_picture` reads one).
          known: 1 where it is kept and 0 where it is drawn, `[H, W, 1]` (`editing.read_mask` reads one).

        Raises:
          UserError: their shapes or values are not as described.
        """
        self.inpainting = checked_inpainting(image, known, self.shape)
        self.forget_chains()
        return self

    def source(self, split: str = "test") -> Source:
        """The images of a split of the run's data set, or of the split "held_out", see `factory.of_split`.

        Their classes are numbered as those of the run, by name.

        Raises:
          UserError: as `factory.of_split`.
        """
        source, labels = factory.of_split(self.config, split), self.config.labels
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
        settings, own = to_json(self.config), self._own_params()
        groups = {group: settings[group] for group in ("task", "diffusion", "model", "posterior")}
        if self.config.network == CUSTOM:
            groups["network"] = factory.described(self.model)
        return integrity.fingerprint(own, groups)

    def denoiser(self) -> ParametricDenoiser:
        """A function `(params, label)` to the run's `Denoiser`, clipped and guided as the run is configured.

        Raises:
          UserError: the run is a classifier.
        """
        self._must_draw()
        return denoiser_of(copy.deepcopy(self.config), self.model, classifier=self.classifier, fit=self.chain_fit())

    def chain_fit(self) -> ChainFit | None:
        """What `evaluation.fitting.fit_chain` measured, if the configured variance or grid needs it, or None.

        Raises:
          UserError: it is needed and was not measured, or of other parameters.
        """
        if not factory.fitted_keys(self.config):
            return None
        self._fitted = self._fitted or fitted.read(self)
        return self._fitted.fit

    def transitions(self, num_steps: int = 0) -> Transition:
        """The transitions of a chain on the configured grid, leaves `[num_steps]`; 0 for all T.

        Raises:
          UserError: the grid cannot have so many steps, or as `chain_fit`.
        """
        return factory.sampling_transitions(self.config, num_steps, self.chain_fit())

    def forget_chains(self) -> None:
        """Forgets the compiled chains and what was measured for them, after something that they depend on changed."""
        self._compiled.clear()
        self._fitted = None

    def log_probs(self, images: ArrayLike, *, t: float = 1) -> np.ndarray:
        """A classifier's predictions for noisy images, `log p(k | x_t, w)` `[S, N, K]`, at S samples of its weights.

        S is 1 where no weight is random. `bayes.predictive_log_prob` averages them, `bayes.uncertainty` compares them.

        Args:
          images: `[N, H, W, C]`, x_t; clean images in [-1, 1] are given with t = 1.
          t: the time, a number in [1, T].

        Raises:
          UserError: the run is not a classifier, the images have another shape or type, or t is out of range.
        """
        if denoises(self.config):
            raise UserError(f"{self.workdir} is the run of a denoiser, which does not predict classes")
        images = np.asarray(images)
        if images.shape[1:] != self.shape or not np.issubdtype(images.dtype, np.floating):
            raise UserError(
                f"the images must be {['N', *self.shape]} of floats, and are {images.dtype} {list(images.shape)}; "
                "from_uint8 scales bytes"
            )
        try:
            count, level = self.config.posterior.num_samples, factory.noise_schedule(self.config).level(t)
        except ValueError as error:
            raise UserError(f"t={t}: {error}") from error
        if count not in self._log_probs:
            samples = factory.classifier_samples(copy.deepcopy(self.config), self.model)
            self._log_probs[count] = jax.jit(lambda params, x, level: samples(params)(x, level))
        images, level = np.asarray(images, np.float32), jax.tree.map(np.float32, level)
        return np.asarray(self._log_probs[count](self.params, images, level))

    def chain(self, num_steps: int = 0, *, sampler: Sampler | None = None) -> Chain:
        """The chain of the run's sampler; chains that differ only in numbers and labels share their compiled programs.

        Args:
          num_steps: number of steps; 0 takes as many as the run's configuration says.
          sampler: a `Sampler` in place of the configured one; None for the latter. What its functions read besides
            their arguments is compiled in: for other values make another `Sampler`.

        Raises:
          UserError: the run is a classifier, or its configuration makes no such chain.
        """
        self._must_draw()
        if sampler is not None:
            factory.check_sampler(sampler, self.shape)
        check_counts(least=0, num_steps=num_steps)
        program = factory.chain_program(self.config, num_steps or self.config.sample.num_steps, sampler)
        if program not in self._compiled:
            while len(self._compiled) >= _MOST_CHAINS:  # the oldest: a sampler made anew for every call is another one
                self._compiled.pop(next(iter(self._compiled)))
            self._compiled[program] = chain_of(
                self.config,
                self.model,
                num_steps=program.num_steps,
                mesh=self.mesh,
                sampler=sampler,
                classifier=self.classifier,
                inpainting=self.inpainting,
                fit=self.chain_fit(),
            ).compiled
        return Chain(self._compiled[program], factory.sampler_settings(self.config), self.labels())

    def sample(
        self,
        num_images: int,
        *,
        seed: int = 0,
        num_steps: int = 0,
        batch_size: int = 64,
        sampler: Sampler | None = None,
    ) -> np.ndarray:
        """Draws images; image i depends on the seed and on i alone.

        Args:
          num_images: N, the number of images.
          seed: integer.
          num_steps: number of steps of the chain; 0 takes what the run's configuration says.
          batch_size: images at a time.
          sampler: as for `chain`.

        Returns:
          `[N, H, W, C]` uint8.

        Raises:
          UserError: as `chain`; or `num_images` or `batch_size` is less than 1.
        """
        check_counts(num_images=num_images, batch_size=batch_size)
        options = {"seed": seed, "batch_size": min(batch_size, num_images)}
        return draw(self.chain(num_steps, sampler=sampler), self.params, indices=np.arange(num_images), **options)

    def trajectory(
        self,
        num_images: int,
        *,
        seed: int = 0,
        num_steps: int = 0,
        num_frames: int = 60,
        sampler: Sampler | None = None,
        by_log_snr: bool = False,
    ) -> Frames:
        """The chain of the images that `sample` gives, from noise to images, at about `num_frames` of its times.

        Args:
          num_images, seed, num_steps, sampler: as for `sample`.
          num_frames: number of frames.
          by_log_snr: whether the frames are evenly spaced in the log SNR instead of along the steps of the chain.

        Raises:
          UserError: as `chain`; or `num_images` or `num_frames` is less than 1.
        """
        check_counts(num_images=num_images, num_frames=num_frames)
        chain = self.chain(num_steps, sampler=sampler)
        with progress_bar(chain.num_steps, "trajectory", unit="step") as bar:
            options = {"num_frames": num_frames, "by_log_snr": by_log_snr, "progress": bar.update}
            return chain.frames(self.params, root_key(seed), indices=np.arange(num_images), **options)

    def _own_params(self) -> Params:
        """The parameters of the run's own network, without those of a classifier that guides it."""
        if self.classifier is None:
            return self.params
        assert isinstance(self.params, dict), "`guide` sets both"
        return self.params["denoiser"]

    def _must_draw(self) -> None:
        """Raises a UserError where the run is a classifier."""
        if not denoises(self.config):
            raise UserError(f"{self.workdir} is the run of a classifier, which cannot draw images, but can guide them")
