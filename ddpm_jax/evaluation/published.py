"""The feature extractors of published networks, Inception and DINOv2, whose weight file the user gives once.

The file is kept in the cache folder. A file that pytorch-fid, torch-fidelity or torch.hub downloaded to its usual place
is found there.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ddpm_jax.convert.dinov2 import read_dinov2
from ddpm_jax.convert.inception import load_inception
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.extractors import Extractor
from ddpm_jax.metrics.resize import inception_input, resized
from ddpm_jax.models.dinov2 import normalised
from ddpm_jax.models.inception import Inception, InceptionFeatures
from ddpm_jax.runtime.devices import is_first
from ddpm_jax.runtime.paths import cache_folder, local_path
from ddpm_jax.runtime.storage import write_whole

_DINOV2_SIZE = 224  # pixels along each side of the images that DINOv2 is given


class Published(NamedTuple):
    """The published file of a network's weights.

    Attributes:
      files: the names under which it is published; the first one names it in our cache.
      source: where a person finds it.
    """

    files: Sequence[str]
    source: str


INCEPTION = Published(
    ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth"),
    "https://github.com/mseitzer/pytorch-fid/releases",
)
DINOV2 = {
    name: Published((f"{name}_pretrain.pth",), f"https://dl.fbaipublicfiles.com/dinov2/{name}/{name}_pretrain.pth")
    for name in ("dinov2_vitb14", "dinov2_vitl14")
}


def inception(protocol: str, weights: str | os.PathLike[str] | None) -> Extractor:
    """Inception by a protocol of `metrics.resize.PROTOCOLS`; grey images are taken as colour with equal channels.

    Raises:
      UserError: the file of its weights is not known, or is not the published one.
    """
    loaded = load_inception(known_file(INCEPTION, weights))
    keep(INCEPTION, weights)

    def apply(params: Any, images: jax.Array) -> dict[str, jax.Array]:
        features = Inception().apply({"params": params}, inception_input(in_colour(images), protocol))
        assert isinstance(features, InceptionFeatures)
        return {"pool": features.pool, "logits": features.logits, "spatial": features.spatial}

    about = {"features": "inception", "protocol": protocol, "weights": loaded.sha256}
    return Extractor(apply, loaded.params, ("pool", "logits", "spatial"), about)


def dinov2(name: str, weights: str | os.PathLike[str] | None) -> Extractor:
    """DINOv2 of a published size, on images resized to 224x224 by bicubic interpolation with antialiasing.

    Raises:
      UserError: the file of its weights is not known, or is not the published one of this size.
    """
    path = known_file(DINOV2[name], weights)
    loaded = read_dinov2(path)
    if loaded.name != name:
        raise UserError(f"{path} is {loaded.name or 'another file'} and not {name}: get {DINOV2[name].source}")
    keep(DINOV2[name], weights)

    def apply(params: Any, images: jax.Array) -> dict[str, jax.Array]:
        square = resized(in_colour(images), _DINOV2_SIZE, "bicubic_antialiased")
        pool = loaded.network.apply({"params": params}, normalised(square))
        assert isinstance(pool, jax.Array)
        return {"pool": pool}

    about = {"features": "dinov2", "protocol": f"bicubic {_DINOV2_SIZE}", "weights": loaded.sha256, "network": name}
    return Extractor(apply, loaded.params, ("pool",), about)


def in_colour(images: jax.Array) -> jax.Array:
    """Images `[B, H, W, C]` with C = 1 or 3 as `[B, H, W, 3]`."""
    return jnp.broadcast_to(images, (*images.shape[:-1], 3))


def known_file(published: Published, given: str | os.PathLike[str] | None) -> Path:
    """The file of published weights: the given one, else that of the cache or of the torch hub.

    Raises:
      UserError: it is nowhere.
    """
    if given is not None:
        return local_path(given)
    places = [folder / name for folder in _folders() for name in published.files]
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        raise UserError(
            f"the weights of this feature network are needed once: download {published.files[0]} ({published.source}) "
            "and give it once (evaluate.py --feature_weights=FILE), or choose features=pixels or a classifier's run"
        )
    return found


def keep(published: Published, given: str | os.PathLike[str] | None) -> None:
    """Copies a given file of weights to the cache, if there is one and it lacks the file."""
    cache = cache_folder()
    if given is None or cache is None or not is_first():
        return
    place = cache / "features" / published.files[0]
    if not place.exists():
        write_whole(place, lambda temporary: shutil.copyfile(given, temporary))


def _folders() -> list[Path]:
    """The folders in which weights may be: ours, and that of the torch hub."""
    cache = cache_folder()
    home = os.environ.get("TORCH_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "torch"
    )
    return [*([cache / "features"] if cache else []), Path(home) / "hub" / "checkpoints"]
