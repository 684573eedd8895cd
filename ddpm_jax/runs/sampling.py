"""The sampling job: it writes images of a run to files, as a grid, an array, a folder, or the chain as an animation.

Read next: `run.py`.
"""

import io
import json
import os
import sys
import zlib
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from ddpm_jax.config import GROUPS, changes, in_words, to_json
from ddpm_jax.errors import UserError, check_counts, first_line, reading
from ddpm_jax.runs import pictures
from ddpm_jax.runs.chain import draw
from ddpm_jax.runtime import storage
from ddpm_jax.runtime.buckets import AnyPath
from ddpm_jax.runtime.devices import agreed, is_first
from ddpm_jax.runtime.images import (
    check_pictured,
    save_gif,
    save_png,
)
from ddpm_jax.runtime.paths import any_path

if TYPE_CHECKING:
    from ddpm_jax.runs.run import Run


def sample_run(
    run: "Run",
    out: str | os.PathLike[str],
    *,
    num_images: int,
    seed: int,
    num_steps: int = 0,
    batch_size: int = 64,
) -> AnyPath:
    """Draws images of a run into a file or a folder.

    Args:
      run: `Run`.
      out: `FILE.png` for a grid, `FILE.npz` for `arr_0` uint8 `[N, H, W, C]`, or a folder for one PNG per image. An
        unfinished folder is continued by the same run, or by a copy of it in any place.
      num_images: N, the number of images.
      seed: integer.
      num_steps: number of steps of the chain; 0 takes what the run's configuration says.
      batch_size: images at a time.

    Returns:
      The path written.

    Raises:
      UserError: `out` cannot be written, or the folder holds images of other settings.
    """
    check_counts(num_images=num_images, batch_size=batch_size)
    is_folder, out = os.fspath(out).endswith("/"), any_path(out)
    is_folder = is_folder or _is_dir(out)
    if out.suffix != ".npz":
        check_pictured(run.shape[-1], otherwise="write them as an array, FILE.npz")
    chain = run.chain(num_steps)
    if is_folder or not out.suffix:
        indices, options = np.arange(num_images), {"seed": seed, "batch_size": min(batch_size, num_images)}
        settings: dict[str, Any] = {"step": run.step, "params": run.params_name, "network": run.digest(), "seed": seed}
        settings["sample"] = {**to_json(run.config.sample), "num_steps": chain.num_steps, "labels": [*run.labels()]}
        settings["classifier"] = run.classifier and run.classifier.digest()
        settings["inpainting"] = run.inpainting and _fingerprint(run.inpainting)
        if (fit := run.chain_fit()) is not None:
            settings["fit"] = _fingerprint(fit)
        missing = indices[agreed(_open_folder(out, settings, indices, run.shape) if is_first() else indices < 0)]
        draw(chain, run.params, indices=missing, sink=partial(_save_images, out), **options)
        return out
    if out.suffix not in (".png", ".npz"):
        raise UserError(f"{out} must end in .png (a grid), .npz (an array) or / (a folder)")
    storage.check_writable(out)
    images = run.sample(num_images, seed=seed, num_steps=num_steps, batch_size=batch_size)
    if out.suffix == ".png":
        picture = pictures.grid(images, chain.labels, names=run.class_names, num_classes=run.num_classes)
        save_png(out, pictures.inpainted(picture, *run.inpainting) if run.inpainting else picture)
    else:
        storage.write_whole(out, lambda path: np.savez(path, arr_0=images))
    return out


def sample_trajectory(
    run: "Run",
    out: str | os.PathLike[str],
    *,
    num_images: int,
    seed: int,
    num_steps: int = 0,
    num_frames: int = 60,
) -> AnyPath:
    """Writes the chain of the first images as a GIF, from noise to images: x_t beside the estimate of x_0.

    The frames follow each other at about equal steps of the log SNR.

    Args:
      run, num_images, seed, num_steps: as for `sample_run`.
      out: `FILE.gif`.
      num_frames: keep about this many frames of the chain.

    Returns:
      The path written.

    Raises:
      UserError: `out` is not a GIF or cannot be written.
    """
    out = any_path(out)
    if out.suffix != ".gif":
        raise UserError(f"{out} must end in .gif")
    check_pictured(run.shape[-1], otherwise="Run.trajectory gives the chain as arrays")
    storage.check_writable(out)
    frames = run.trajectory(num_images, seed=seed, num_steps=num_steps, num_frames=num_frames, by_log_snr=True)
    save_gif(out, pictures.frames(frames, columns=run.chain(num_steps).columns))
    return out


def _open_folder(
    folder: AnyPath, settings: dict[str, Any], indices: np.ndarray, shape: tuple[int, int, int]
) -> np.ndarray:
    """Makes or continues a folder of samples; returns which of the indices have no whole image yet, `[N]` bool."""
    record = folder / "sampling.json"
    with reading(folder):
        known = set(storage.names(folder))
    if record.name in known:
        clashes = changes(_recorded(record), settings)
        if clashes:
            raise UserError(f"{folder} holds other samples: {in_words(clashes)}; choose another folder")
    elif known:
        raise UserError(f"{folder} holds other files; choose an empty or new folder")
    else:
        storage.write_whole(record, lambda path: path.write_text(json.dumps(settings)))
    whole = lambda name: name in known and _is_whole(folder / name, shape)
    return np.array([not whole(f"{i:06d}.png") for i in indices], bool)


def _is_dir(out: AnyPath) -> bool:
    """Whether a folder exists."""
    with reading(out):
        return storage.is_dir(out)


def _is_whole(path: AnyPath, shape: tuple[int, int, int]) -> bool:
    """Whether an image of the folder exists and is a complete PNG file of this shape, by the checksums of its parts."""
    try:
        with Image.open(io.BytesIO(storage.read_bytes(path)), formats=["PNG"]) as image:
            if (image.height, image.width, len(image.getbands())) != shape:
                raise ValueError("another shape")
            image.verify()
    except Exception:  # Pillow raises many kinds for damaged files
        print(f"note: {path} is damaged and is drawn again", file=sys.stderr, flush=True)
        return False
    return True


def _recorded(record: AnyPath) -> dict[str, Any]:
    """The settings that a folder of samples was drawn with.

    Raises:
      UserError: the record cannot be read, or comes from a version that did not store which network it was.
    """
    try:
        settings = json.loads(storage.read_text(record))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {record}: {first_line(error)}; choose another folder") from error
    if not isinstance(settings, dict) or not isinstance(settings.get("sample"), dict):
        raise UserError(f"{record} is not the record of a folder of samples; choose another folder")
    if "network" not in settings:
        raise UserError(
            f"{record.parent} was drawn by an earlier version, which recorded the path of the run and not its network, "
            "so the images there may come from another network: draw all images into another folder"
        )
    defaults = {name: key.default for name, key in GROUPS["sample"].keys.items()}  # of keys that are newer
    return {**settings, "sample": {**defaults, **settings["sample"]}}


def _fingerprint(arrays: Iterable[ArrayLike]) -> int:
    """A checksum of the arrays' values."""
    return zlib.crc32(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays))


def _save_images(folder: AnyPath, indices: np.ndarray, images: np.ndarray) -> None:
    """Writes one PNG per image `[N, H, W, C]` uint8, named by its index."""
    for index, image in zip(indices, images, strict=True):
        save_png(folder / f"{index:06d}.png", image)
