"""Arrays in files of NumPy, read without running any code in them."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from ddpm_jax.errors import UserError, first_line
from ddpm_jax.runtime.buckets import AnyPath
from ddpm_jax.runtime.storage import local_file


@contextlib.contextmanager
def opened_arrays(path: AnyPath) -> Iterator[Any]:
    """Yields what `numpy.load` returns for a .npz or .npy file; a .npz file is read while the `with` statement lasts.

    Raises:
      UserError: the file cannot be read, is damaged, or contains objects other than arrays of numbers or text.
    """
    try:
        with local_file(path) as place, place.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            with content if isinstance(content, np.lib.npyio.NpzFile) else contextlib.nullcontext():
                yield content
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or first_line(error)}") from error
    except Exception as error:  # a damaged file can raise anything
        raise UserError(
            f"{path} is damaged, or is not a {path.suffix} file of numbers: make it again, or download it again"
        ) from error
