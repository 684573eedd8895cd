"""Prepares a data set of TensorFlow Datasets: `python -m ddpm_jax.data.prepare celeb_a --data_dir=DIR`.

Only this step needs TensorFlow (`pip install tensorflow-cpu`). It may run on another machine, from which DIR is then
copied. Afterwards the program prints the number of images and the size on the disk, and writes a sheet of 64 images,
which does not need TensorFlow; if the data set is already prepared, it does only this.

Read next: `tfds.py`, which reads what this writes.
"""

import argparse
import importlib.util
import os
import re
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from ddpm_jax.data.tfds import TfdsImages, data_folder, find_builder, hint
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.images import save_png, tile_images
from ddpm_jax.runtime.paths import show_unprintable_by_code

_SHEET_IMAGES, _SHEET_SIZE = 64, 64


def prepare(name: str, data_dir: str | os.PathLike[str]) -> None:
    """Downloads a data set and writes it as array_record.

    Args:
      name: such as "mnist", or "lsun/bedroom" with a configuration if the data set has several.
      data_dir: the folder of all data sets; the downloads stay in its sub-folder `downloads`.

    Raises:
      UserError: TensorFlow is missing, the configuration or version does not exist, or the download fails.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            f"preparing {name} needs TensorFlow, which training does not: run `pip install tensorflow-cpu` first"
        )
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

    _check_configuration(name, tfds.builder_cls(re.split("[/:]", name)[0]).builder_configs)
    try:
        builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
        builder.download_and_prepare(download_dir=f"{data_dir}/downloads")
    except (
        tfds.download.DownloadError,
        NonMatchingChecksumError,
        OSError,
        ValueError,
        AssertionError,  # the archives have to be downloaded by hand
    ) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"cannot prepare {name}: {reason} (put archives that you download by hand into {data_dir}/downloads/manual)"
        ) from error


def _check_configuration(name: str, configurations: Collection[str]) -> None:
    """Raises a `UserError` for a missing or misspelt configuration; TFDS would take its first one for a missing one."""
    bare_name, _, chosen = name.partition(":")[0].partition("/")
    if chosen not in configurations and len(configurations) > 1:
        raise UserError(
            f"{bare_name} has {len(configurations)} configurations, and {bare_name}/{chosen} is not one of them"
            + hint(chosen, configurations)
        )


def report(name: str, data_dir: str | os.PathLike[str]) -> tuple[str, Path]:
    """Describes a prepared data set and draws a sheet of its first images.

    Args:
      name: as in `prepare`.
      data_dir: as in `prepare`.

    Returns:
      The description, which is several lines of text, and the path of the sheet, a PNG in `data_dir`.
    """
    builder = find_builder(name, data_dir)
    assert builder is not None, "the data set is prepared"
    folder, splits = Path(builder.data_dir), builder.info.splits
    num_bytes = sum(file.stat().st_size for file in folder.iterdir())
    lines = [f"{builder.info.full_name} in {folder}: {num_bytes / 1e6:,.1f} MB"]
    lines += [f"  {split}: {info.num_examples:,} images" for split, info in splits.items()]

    split = "train" if "train" in splits else next(iter(splits))
    source = TfdsImages(name, split, data_dir=data_dir, size=_SHEET_SIZE, skip_unreadable=True)
    sheet = Path(data_dir) / f"{builder.info.full_name.replace('/', '-')}.png"
    save_png(sheet, tile_images(np.stack([source[i]["image"] for i in range(min(_SHEET_IMAGES, len(source)))])))
    return "\n".join(lines), sheet


def main(argv: Sequence[str] | None = None) -> int:
    """Prepares the data set that the command line names, prints a report and returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m ddpm_jax.data.prepare",
        description="Downloads a data set of TensorFlow Datasets and prepares it for training. This is needed once per "
        "data set, and it needs TensorFlow: pip install tensorflow-cpu. If the data set is already prepared, only a "
        "report on it is printed.",
        epilog="Example: python -m ddpm_jax.data.prepare celeb_a --data_dir=data. If a server refuses the download "
        "(Google Drive has a quota on CelebA), download the archives by hand into DIR/downloads/manual and run the "
        "same command again.",
    )
    parser.add_argument(
        "name", help="the data set, such as celeb_a or lsun/bedroom, as tensorflow.org/datasets/catalog lists it"
    )
    parser.add_argument(
        "--data_dir",
        metavar="DIR",
        help="the folder of all prepared data sets (default: $TFDS_DATA_DIR or ~/tensorflow_datasets)",
    )
    arguments = parser.parse_args(argv)
    show_unprintable_by_code()
    try:
        data_dir = data_folder(arguments.data_dir)
        if find_builder(arguments.name, data_dir) is None:
            prepare(arguments.name, data_dir)
        text, sheet = report(arguments.name, data_dir)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{text}\nwrote {sheet}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
