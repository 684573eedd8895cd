"""What the sections of a report are made from: an opened run, its data, and the images that its chain drew."""

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax import factory
from ddpm_jax.config import to_json
from ddpm_jax.data.source import Source
from ddpm_jax.errors import program
from ddpm_jax.evaluation.images import Images
from ddpm_jax.evaluation.report.markup import Html
from ddpm_jax.runs.chain import Frames, root_key
from ddpm_jax.runs.run import Run
from ddpm_jax.runtime.devices import padded
from ddpm_jax.runtime.images import to_uint8
from ddpm_jax.runtime.paths import as_flag
from ddpm_jax.runtime.progress import progress_bar

_NUM_FRAMES = 25  # of the chain that is shown


class Section(NamedTuple):
    """A part of the report.

    Attributes:
      content: its HTML, without the heading.
      numbers: the numbers to show at the top of the report, by their names.
      commands: the commands that measure again what it shows, by what that is.
    """

    content: Html
    numbers: Mapping[str, str] = {}
    commands: Mapping[str, str] = {}


class Drawn(NamedTuple):
    """Images that a chain drew, and what that cost.

    Attributes:
      images: `[N, H, W, C]` uint8.
      seconds: time per image, without that of the first batch, during which the chain is compiled.
      evaluations: of the network, per image.
      num_steps: number of steps of the chain.
      frames: frames of the chain of the first batch.
    """

    images: np.ndarray
    seconds: float
    evaluations: int
    num_steps: int
    frames: Frames


@dataclass
class Subject:
    """What a report is about.

    Attributes:
      run: the opened run.
      num_images: number of samples of each chain.
      seed: the seed of the samples.
      features, weights: as for `evaluate`; "" for pixels.
      batch_size: images at a time.
    """

    run: Run
    num_images: int
    seed: int = 0
    features: str = ""
    weights: Any = None
    batch_size: int = 64
    _sources: dict[str, Source] = field(default_factory=dict)

    @cached_property
    def own(self) -> Drawn:
        """What the run's own chain draws, with its frames.

        Raises:
          UserError: as `Run.chain`; or an image is not finite.
        """
        return self.draw(self.run, num_frames=_NUM_FRAMES)

    def draw(self, run: Run, *, num_steps: int = 0, num_frames: int = 1) -> Drawn:
        """Draws images with the chain of a run, the same ones for any batch size.

        Args:
          run: the run, or a copy of it with another sampler.
          num_steps: number of steps; 0 for those of the run.
          num_frames: number of frames that are kept of the first batch.

        Raises:
          UserError: as `Run.chain`; or an image is not finite.
        """
        chain, key, size = run.chain(num_steps), root_key(self.seed), min(self.batch_size, -(-self.num_images // 3))
        images, took, kept = [], [], []
        batches = [np.arange(i, min(i + size, self.num_images)) for i in range(0, self.num_images, size)]
        name = f"{sampler_of(run)}, {chain.num_steps} steps"
        with progress_bar(len(batches) * chain.num_steps, name, unit="step") as bar:
            for batch in batches:
                begin, indices = time.perf_counter(), padded(batch, size)
                options = {"indices": indices, "num_frames": num_frames, "progress": bar.update}
                frames = chain.frames(run.params, key, **options)
                took.append((time.perf_counter() - begin) / size)
                images.append(to_uint8(frames.x[-1])[: len(batch)])
                kept = kept or [frames]
        guided = factory.guidance(run.config)
        evaluations = kept[0].evaluations * (guided.conditional + guided.unconditional)
        seconds = float(np.mean(took[1:] or took))
        return Drawn(np.concatenate(images), seconds, evaluations, chain.num_steps, kept[0])

    def source(self, split: str) -> Source:
        """A split of the run's data, see `Run.source`."""
        if split not in self._sources:
            self._sources[split] = self.run.source(split)
        return self._sources[split]

    def test_images(self, num_images: int) -> Images:
        """Images of the test split of the run's data set."""
        return Images(self.source("test"), num_images=num_images, batch_size=self.batch_size, mesh=self.run.mesh)

    def with_sampler(self, name: str) -> Run:
        """The run with another sampler; they share their parameters and their compiled chains."""
        return copy.copy(self.run).configure(sampler=name)

    def command(self, name: str, *flags: str, run: Run | None = None, draws: bool = False) -> str:
        """A command that measures the run.

        Args:
          name: "evaluate" or "sample".
          *flags: its flags besides those that open the run.
          run: the run with another sampler.
          draws: whether it draws images, for which the settings of the chain matter.
        """
        run = run or self.run
        words = [program(name), as_flag("workdir", run.workdir)]
        words += ["--params=raw"] * (run.params_name == "raw") + [*flags]
        if draws:
            steps = sampling(run)["num_steps"]
            words += [f"--num_steps={steps}"] * (steps and not any(flag.startswith("--num_steps=") for flag in flags))
            words += _chain_flags(run)
            words += [f"--seed={self.seed}"] * (self.seed != 0)
        return " ".join(words)


def sampling(run: Run) -> dict[str, Any]:
    """The settings `config.sample` of a run as values of JSON."""
    return to_json(run.config.sample)


def sampler_of(run: Run) -> str:
    """The name of the sampler of a run."""
    return str(factory.chain_program(run.config, 0).sampler)


def _chain_flags(run: Run) -> list[str]:
    """The flags that give a chain the settings of a run."""
    known, own = sampling(run), {"ancestral": ["variance"], "ddim": ["eta"]}
    keys = ["sampler", *own.get(sampler_of(run), []), "grid"]
    keys += ["guidance_scale"] * bool(run.num_classes and run.classifier is None)
    keys += [key for key in ("labels", "corrector_steps") if known[key]]
    flags = [as_flag(key, str(known[key])) for key in keys]
    if run.classifier is not None:
        flags += [as_flag("classifier_workdir", run.classifier.workdir)]
        flags += [f"--classifier_scale={known['classifier_scale']}"]
    return flags
