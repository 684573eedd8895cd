"""Whether a checkpoint holds what was saved: a digest of every leaf and of the configuration, and finite numbers.

A checkpoint is *damaged* when its files can be read and their content is not what was saved. One that cannot be read
for another reason (a permission, the network, memory) may be whole, and nobody may conclude anything from it.
Read next: `checkpoint.py`.
"""

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.errors import causes, first_line, system_error
from ddpm_jax.runtime.devices import is_first, to_host

# Of a part of a checkpoint, which is damage: what Python raises, and the system's number in TensorStore's words.
_ABSENT_ERRORS = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
# How TensorStore begins what says nothing of the files.
_NETWORK = re.compile("(UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED|PERMISSION_DENIED|UNAUTHENTICATED)\\b")

_THREADS = 4  # that hash


class DamagedError(Exception):
    """The content of a checkpoint is not what was saved, or is not finite; the message says what of it."""


class Record(NamedTuple):
    """What is stored beside the arrays of a checkpoint.

    Attributes:
      config: the configuration of the run, as JSON.
      digests: of the state, `{leaf: "float32[3,3] SHA-256"}`; None in checkpoints of versions that stored none.
    """

    config: dict[str, Any]
    digests: Mapping[str, str] | None


def to_json(record: Record) -> dict[str, Any]:
    """The record as JSON, with a digest of its own."""
    content = {"config": record.config, "digests": dict(record.digests or {})}
    return {**content, "sha256": _sha256_of_json(content)}


def from_json(stored: Any) -> Record:
    """The record of `to_json`'s result, or of the configuration alone, which earlier versions stored.

    Raises:
      DamagedError: it is neither, or not what was saved.
    """
    if isinstance(stored, dict) and stored.keys() == {"config", "digests", "sha256"}:
        if stored["sha256"] != _sha256_of_json({key: stored[key] for key in ("config", "digests")}):
            raise DamagedError("the digest of its configuration differs")
        return Record(stored["config"], stored["digests"])
    if isinstance(stored, dict) and {"data", "diffusion", "model", "train"} <= stored.keys():
        return Record(stored, None)
    raise DamagedError("it holds no configuration")


def digests(tree: Any) -> dict[str, str]:
    """Kind, shape and SHA-256 of the values of every leaf of a tree of arrays, by the leaf's name."""
    running = []
    with ThreadPoolExecutor(_THREADS) as pool:  # hashlib leaves Python's lock to others
        for name, leaf in _host_leaves(tree):
            running.append((name, pool.submit(_digest, leaf)))
            if len(running) > _THREADS:
                running[-_THREADS - 1][1].result()  # so that no more leaves than threads wait on the host
    return {name: digest.result() for name, digest in running}


def digests_on_first(tree: Any) -> dict[str, str]:
    """`digests` on the first process; the others only take part where a leaf has to be gathered, and have none."""
    if is_first():
        return digests(tree)
    for _ in _host_leaves(tree):
        pass
    return {}


def misfits(tree: Any, expected: Mapping[str, str]) -> list[str]:
    """The leaves of a tree of shapes that were not saved, or were saved with another kind or shape."""
    return [name for name, leaf in _leaves(tree) if expected.get(name, "").partition(" ")[0] != _form(leaf)]


def check(tree: Any, expected: Mapping[str, str] | None) -> None:
    """Checks that the leaves of a restored tree are those that were saved, and finite.

    Args:
      tree: arrays.
      expected: the digests of at least these leaves; None where there are none.

    Raises:
      DamagedError: a leaf differs or is not finite.
    """
    for name, leaf in _host_leaves(tree):
        if expected is not None and expected.get(name) != _digest(leaf):
            raise DamagedError(f"the digest of {name} differs")
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not np.isfinite(leaf.astype(np.float32)).all():
            raise DamagedError(f"{name} is not finite")


def fingerprint(tree: Any, settings: Any) -> str:
    """Sixteen hexadecimal digits that tell a tree of arrays, with settings that JSON can hold, from others."""
    return _sha256_of_json({"digests": digests(tree), "settings": settings})[:16]


def obstacle(folder: Path, error: BaseException) -> str | None:
    """What, other than damage, kept a checkpoint from being read; None where the checkpoint is damaged.

    Args:
      folder: of the checkpoint.
      error: what reading it ended with.
    """
    for cause in causes(error):
        if isinstance(cause, DamagedError):
            return None
        if isinstance(cause, MemoryError) or "RESOURCE_EXHAUSTED" in str(cause):
            return f"out of memory ({first_line(cause)})"
        if isinstance(cause, ImportError) or "Unable to initialize backend" in str(cause) or _NETWORK.match(str(cause)):
            return first_line(cause)
        if isinstance(cause, OSError) and not isinstance(cause, _ABSENT_ERRORS):
            return cause.strerror or first_line(cause)
        number = system_error(cause)
        if number is not None and number not in _ABSENT:
            return errno.errorcode.get(number, str(number))
    return _unreadable(folder)


def _unreadable(folder: Path) -> str | None:
    """Why some file below a folder cannot be read, or None where all can."""

    def refuse(error):
        raise error

    try:
        for place, _, names in os.walk(folder, onerror=refuse):
            for name in names:
                with open(os.path.join(place, name), "rb") as file:
                    while file.read(2**20):
                        pass
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return f"{error.strerror or first_line(error)}: {error.filename or folder}"
    return None


def _leaves(tree: Any) -> Iterator[tuple[str, Any]]:
    """Name and value of every leaf; random keys are stored as the integers that they are made of."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        numbers = jax.random.key_data if isinstance(leaf, jax.Array) else partial(jax.eval_shape, jax.random.key_data)
        yield jax.tree_util.keystr(path, simple=True, separator="/"), numbers(leaf) if is_key else leaf


def _host_leaves(tree: Any) -> Iterator[tuple[str, np.ndarray]]:
    """The same with each value on the host."""
    for name, leaf in _leaves(tree):
        yield name, to_host(leaf) if isinstance(leaf, jax.Array) else np.asarray(leaf)


def _form(leaf: Any) -> str:
    """Kind and shape of an array, such as float32[3,3]."""
    return f"{leaf.dtype.name}[{','.join(map(str, leaf.shape))}]"


def _digest(leaf: np.ndarray) -> str:
    """Kind, shape and SHA-256 of an array's values."""
    values = np.ascontiguousarray(leaf).reshape(-1).view(np.uint8)
    return f"{_form(leaf)} {hashlib.sha256(values).hexdigest()}"


def _sha256_of_json(content: Any) -> str:
    """The digest of what JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
