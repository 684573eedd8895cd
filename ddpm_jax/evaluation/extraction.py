"""From images to features in a stream: batches are drawn or read, and only their features are kept.

The features of each batch are one small file in a cache, so that a measurement which is interrupted, or another metric
on the same images, computes only what is missing. The name of a file is a digest of everything that its features
depend on: of a run's samples their network, settings, seed and indices; of images from files their pixels.
"""

import hashlib
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh

from ddpm_jax.config import to_json
from ddpm_jax.data.source import Source
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.extractors import Extractor
from ddpm_jax.evaluation.feature_sets import FeatureSet
from ddpm_jax.runs.chain import root_key
from ddpm_jax.runtime.buckets import AnyPath
from ddpm_jax.runtime.devices import agreed, padded, replicated, split, to_host
from ddpm_jax.runtime.images import to_uint8
from ddpm_jax.runtime.progress import progress_bar
from ddpm_jax.runtime.storage import read_bytes, write_whole

if TYPE_CHECKING:
    from ddpm_jax.runs.run import Run

Arrays = dict[str, np.ndarray]

_AT_ONCE = {True: 16, False: 128}  # images per device at a time, on a CPU and elsewhere


class Compiled:
    """An extractor compiled for the devices, for parts of a batch of one size.

    Large networks are fastest, and need the least memory, with few images at a time on a CPU.

    Args:
      extractor: `Extractor`.
      outputs: the names of the outputs that are needed.
      mesh: the devices.
      batch_size: the largest number of images in a batch.

    Attributes:
      extractor, outputs: as the arguments; the outputs are sorted.
      how: everything that the features of an image depend on besides the image, as text.
    """

    def __init__(self, extractor: Extractor, outputs: Iterable[str], *, mesh: Mesh, batch_size: int) -> None:
        self.extractor, self.outputs = extractor, tuple(sorted(outputs))
        self.how = json.dumps(dict(extractor.protocol))
        num_parts = math.ceil(batch_size / (mesh.size * _AT_ONCE[mesh.devices.flat[0].platform == "cpu"]))
        self._size, cut = math.ceil(batch_size / num_parts / mesh.size) * mesh.size, split(mesh)
        self._place = lambda images: jax.device_put(images, cut)
        self._params = jax.device_put(extractor.params, replicated(mesh))

        def chosen(params: Any, images: jax.Array) -> dict[str, jax.Array]:
            features = extractor.apply(params, images)
            return {name: features[name] for name in self.outputs}

        self._apply = jax.jit(chosen, in_shardings=(replicated(mesh), cut), out_shardings=cut)

    def __call__(self, images: np.ndarray) -> Arrays:
        """The features `{output: [B, D]}` of images `[B, H, W, C]` uint8.

        Raises:
          UserError: a feature is not finite.
        """
        indices, parts = padded(np.arange(len(images)), self._size), []
        for begin in range(0, len(indices), self._size):
            placed = self._apply(self._params, self._place(images[indices[begin : begin + self._size]]))
            parts.append({name: to_host(placed[name]) for name in self.outputs})
        features = {name: np.concatenate([part[name] for part in parts])[: len(images)] for name in self.outputs}
        for name, values in features.items():
            if not np.isfinite(values).all():
                raise UserError(f"the features ({name}) are not finite: the weights of the feature network are damaged")
        return features


class Extraction:
    """The features of sets of images by one or several extractors, so that images are drawn or read only once.

    Args:
      extractors: `{name: (extractor, outputs)}`, with the outputs that are needed.
      mesh: the devices.
      cache: the folder in which features are kept, or None.
      batch_size: images at a time, rounded up to a multiple of the number of devices.
    """

    def __init__(
        self,
        extractors: Mapping[str, tuple[Extractor, Iterable[str]]],
        *,
        mesh: Mesh,
        cache: AnyPath | None = None,
        batch_size: int = 100,
    ) -> None:
        self.batch_size, self._cache = math.ceil(batch_size / mesh.size) * mesh.size, cache
        self.compiled = {
            name: Compiled(extractor, outputs, mesh=mesh, batch_size=self.batch_size)
            for name, (extractor, outputs) in extractors.items()
        }

    def of_samples(self, run: "Run", *, num_images: int, seed: int = 0, num_steps: int = 0) -> dict[str, FeatureSet]:
        """The features of images that a run draws with its configured chain; image i depends on the seed and i alone.

        Raises:
          UserError: as `Run.chain`.
        """
        chain, key = run.chain(num_steps), root_key(seed)
        settings = sample_settings(run, seed=seed, num_steps=chain.num_steps)
        size = {"image_size": run.shape[0], "channels": run.shape[-1]}
        about = {"kind": "samples", "name": str(run.workdir), "num_images": num_images, **size, **settings}
        batches, kept = self._batches(num_images), []

        def drawn(indices: np.ndarray, progress: Callable[[int], object] | None = None) -> np.ndarray:
            x = chain(run.params, key, indices=padded(indices, self.batch_size), progress=progress)
            return to_uint8(x[: len(indices)])

        with progress_bar(len(batches) * chain.num_steps, "sampling", unit="step") as bar:
            for indices in batches:
                done, what = bar.n, json.dumps([settings, *indices[[0, -1]].tolist()]).encode()
                kept.append(self._features(what, partial(drawn, indices, bar.update)))
                bar.update(done + chain.num_steps - bar.n)  # all steps of a batch from the cache
        return self._sets(
            kept, about, lambda chosen: np.concatenate([drawn(chosen[i]) for i in self._batches(len(chosen))])
        )

    def of_source(self, source: Source, indices: np.ndarray, *, about: Mapping[str, Any]) -> dict[str, FeatureSet]:
        """The features of a source's images of these indices `[N]`, which `about` describes."""
        kept, shape, digest = [], (0, 0, 0), hashlib.sha256()
        with progress_bar(len(indices), "features", unit="image") as bar:
            for part in self._batches(len(indices)):
                images = np.stack([source[i]["image"] for i in indices[part].tolist()])
                shape = images.shape[1:]
                digest.update(images.tobytes())
                kept.append(self._features(images.tobytes(), lambda images=images: images))
                bar.update(len(images))
        size = {"image_size": shape[0], "channels": shape[-1]}
        about = {**about, "num_images": len(indices), **size, "digest": digest.hexdigest()[:16]}
        return self._sets(kept, about, lambda chosen: np.stack([source[i]["image"] for i in indices[chosen].tolist()]))

    def _batches(self, num_images: int) -> list[np.ndarray]:
        """The indices 0..num_images - 1, batch by batch."""
        return [np.arange(i, min(i + self.batch_size, num_images)) for i in range(0, num_images, self.batch_size)]

    def _sets(
        self, kept: list[dict[str, Arrays]], about: Mapping[str, Any], images: Callable[[np.ndarray], np.ndarray]
    ) -> dict[str, FeatureSet]:
        """The features of all batches together, by extractor, with the function that gives the images again."""
        found = {}
        for name, compiled in self.compiled.items():
            arrays = {output: np.concatenate([batch[name][output] for batch in kept]) for output in compiled.outputs}
            found[name] = FeatureSet(arrays, {}, compiled.extractor.protocol, about, images)
        return found

    def _features(self, what: bytes, make: Callable[[], np.ndarray]) -> dict[str, Arrays]:
        """The features of a batch by extractor: from the cache, or else of the images that `make` returns.

        `what` identifies the images.
        """
        found, images = {}, None
        for name, compiled in self.compiled.items():
            kept = hashlib.sha256(compiled.how.encode() + what).hexdigest()[:24]
            paths = {output: self._cache / f"{kept}-{output}.npy" for output in compiled.outputs} if self._cache else {}
            loaded = {output: _load(path) for output, path in paths.items()}
            known = {output: array for output, array in loaded.items() if array is not None}
            has_all = len(known) == len(compiled.outputs)
            if agreed(np.array(has_all)):  # the first process has them
                if not has_all:
                    raise UserError(
                        f"cannot read {self._cache}, which another process can: all processes need the same disk"
                    )
                found[name] = known
                continue
            images = make() if images is None else images
            found[name] = compiled(images)
            for output, path in paths.items():
                write_whole(path, lambda temporary, array=found[name][output]: np.save(temporary, array))
        return found


def sample_settings(run: "Run", *, seed: int, num_steps: int) -> dict[str, Any]:
    """Everything that the images drawn by a run depend on besides their index, as values of JSON."""
    known, fit = run.inpainting, run.chain_fit()
    return {
        "step": run.step,
        "params": run.params_name,
        "network": run.digest(),
        "seed": seed,
        "sample": {**to_json(run.config.sample), "num_steps": num_steps, "labels": [*run.labels()]},
        "classifier": run.classifier and run.classifier.digest(),
        "inpainting": known and _digest(known),
        **({} if fit is None else {"fit": _digest(fit)}),
    }


def _digest(arrays: Iterable[np.ndarray]) -> str:
    """Sixteen hexadecimal digits of the arrays' values."""
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:16]


def spread(num_images: int, of: int) -> np.ndarray:
    """Indices of `num_images` images evenly spaced over `of` images, or of all of them if there are fewer."""
    num_images = min(num_images, of)
    return np.arange(num_images) * of // max(num_images, 1)


def _load(path: AnyPath) -> np.ndarray | None:
    """The features in a file of the cache; None if it does not exist or is damaged."""
    try:
        return np.load(io.BytesIO(read_bytes(path)), allow_pickle=False)
    except Exception:  # a damaged file can raise anything, and is made again
        return None
