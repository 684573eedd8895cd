"""Sets of features, and the files in which a reference is kept: features, their moments, and their protocol.

A reference of this library is `FILE.npz` with `pool` `[N, D]` and other features, `mu` and `sigma` (the mean and
covariance of `pool`, by which other projects read it) and `about`, JSON. Statistics of other projects are read too:
`mu` and `sigma`, and `mu_s` and `sigma_s` of ADM's files. No code in a file is run. Read next: `quality.py`.
"""

import json
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.config import changes, in_words
from ddpm_jax.errors import UserError, first_line, shortened
from ddpm_jax.metrics.frechet import Moments, moments
from ddpm_jax.runtime.arrays import opened_arrays
from ddpm_jax.runtime.buckets import AnyPath
from ddpm_jax.runtime.paths import any_path
from ddpm_jax.runtime.storage import write_whole

OUTPUTS = ("pool", "logits", "spatial")
"""The names of features: of the whole image; for the Inception score; by place in the image, for sFID."""

_OF_ADM = {"features": "inception", "protocol": "torch_fidelity"}
_STATISTICS = {"pool": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}  # the names in the files of other projects


class FeatureSet(NamedTuple):
    """The features of a set of images.

    Attributes:
      arrays: `{output: [N, D]}` float32; empty where only the moments are known.
      known_moments: `{output: Moments}` where a file has them.
      protocol: how the features were made, see `Extractor`; empty where a file does not say it.
      about: which images these are, as values of JSON, with their number `num_images` where it is known.
      images: function from indices `[K]` to these images, uint8 `[K, H, W, C]`; None where they are not known.
      held_out: function that makes the features of images held out of the training, for a reference of training images;
        None where there are none.
    """

    arrays: Mapping[str, np.ndarray]
    known_moments: Mapping[str, Moments]
    protocol: Mapping[str, str]
    about: Mapping[str, Any]
    images: Callable[[np.ndarray], np.ndarray] | None = None
    held_out: "Callable[[], FeatureSet] | None" = None

    def features(self, output: str) -> np.ndarray:
        """The features `[N, D]` of an output.

        Raises:
          UserError: only their moments are known.
        """
        if output not in self.arrays:
            raise UserError(
                f"{self.about.get('name', 'the reference')} has statistics and not the features of its images, which "
                "this metric needs: give a folder of images, or a file made with evaluate.py --make_reference"
            )
        return self.arrays[output]

    def num_features(self, output: str) -> int | None:
        """D, the number of features per image of an output; None if it is not known."""
        if output in self.arrays:
            return self.arrays[output].shape[1]
        return len(self.known_moments[output].mean) if output in self.known_moments else None

    def moments(self, output: str) -> Moments:
        """The mean and covariance of an output's features."""
        return self.known_moments[output] if output in self.known_moments else moments(self.features(output))


def check_comparable(one: FeatureSet, other: FeatureSet) -> None:
    """Checks that two sets of features were made in the same way, from images of one size with as many channels.

    What is not known of one of them is taken as equal.

    Raises:
      UserError: they were not; the message names the difference.
    """
    name = other.about.get("name", "the reference")
    channels = [known.about.get("channels") for known in (one, other)]
    if None not in channels and channels[0] != channels[1]:
        kinds = ["grey" if count == 1 else "in colour" for count in channels]
        raise UserError(f"the images are {kinds[0]} and those of {name} are {kinds[1]}")
    here, there = ({**known.protocol, **_size(known)} for known in (one, other))
    if differing := {key: pair for key, pair in changes(there, here).items() if key in here.keys() & there.keys()}:
        raise UserError(f"the features of {name} were made in another way: {in_words(differing)}")
    for output in OUTPUTS:
        dims = [known.num_features(output) for known in (one, other)]
        if None not in dims and dims[0] != dims[1]:
            raise UserError(f"{name} has {dims[1]:,} features per image and these images have {dims[0]:,}")


def _size(features: FeatureSet) -> dict[str, int]:
    """The size of the images, if it is known, as part of a protocol."""
    return {key: features.about[key] for key in ("image_size",) if key in features.about}


def write_reference(path: str | os.PathLike[str], features: FeatureSet) -> None:
    """Writes a reference file, which is complete or absent.

    Raises:
      UserError: the file cannot be written.
    """
    known = features.moments("pool")
    about = json.dumps({"protocol": dict(features.protocol), "about": dict(features.about)})
    arrays: dict[str, Any] = {**features.arrays, "mu": known.mean, "sigma": known.cov, "about": np.array(about)}
    write_whole(any_path(path), lambda temporary: np.savez(temporary, **arrays))


def read_reference(path: str | os.PathLike[str]) -> FeatureSet:
    """The content of a reference file of this library, or of a file of statistics of another project.

    Raises:
      UserError: it cannot be read, or is neither.
    """
    path = any_path(path)
    content = read_arrays(path)
    try:
        return _reference(path, content)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a reference file: {shortened(first_line(error), 120)}") from error


def read_arrays(path: AnyPath) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, without its images `arr_0`, for which an empty array stands.

    Raises:
      UserError: it cannot be read.
    """
    with opened_arrays(path) as content:
        return {name: np.zeros(0) if name == "arr_0" else content[name] for name in content.files}


def _reference(path: AnyPath, content: dict[str, np.ndarray]) -> FeatureSet:
    """The feature set of the arrays in a reference file, in which ADM's files have images as well."""
    stored: dict[str, Any] = {"protocol": _OF_ADM if "mu_s" in content else {}, "about": {}}
    if "about" in content:
        stored = json.loads(str(content.pop("about")))
    about: dict[str, Any] = {"kind": "reference", "name": path.name, **stored["about"]}
    known = {}
    for output, (mean, cov) in _STATISTICS.items():
        if mean in content and cov in content:
            known[output] = _moments(content.pop(mean), content.pop(cov), about.get("num_images"))
    if not known:
        raise ValueError("it has neither images (arr_0) nor statistics (mu, sigma)")
    arrays = {name: features for name, features in content.items() if name in OUTPUTS}
    for name, features in arrays.items():
        if features.ndim != 2 or not len(features) or not np.isfinite(features).all():
            raise ValueError(f"{name} is not a matrix [N, D] of finite numbers")
    return FeatureSet(arrays, known, stored["protocol"], about)


def _moments(mean: np.ndarray, cov: np.ndarray, num: int | None) -> Moments:
    """Moments from a file; raises a ValueError if they are not `[D]` and `[D, D]` of finite numbers."""
    mean, cov = np.asarray(mean, np.float64), np.asarray(cov, np.float64)
    if mean.ndim != 1 or cov.shape != mean.shape * 2 or not (np.isfinite(mean).all() and np.isfinite(cov).all()):
        raise ValueError(f"mu and sigma must be [D] and [D, D] of finite numbers, not {mean.shape} and {cov.shape}")
    return Moments(num, mean, cov)
