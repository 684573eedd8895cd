"""Checks that a checkpoint holds what was saved: a digest of every leaf and of the configuration, and finite numbers.

A checkpoint is *damaged* when its files can be read and their content is not what was saved. One that cannot be read
for another reason (a permission, the network, memory) may be undamaged, so nothing is concluded from it.
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
from typing import Any, NamedTuple, NoReturn, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.errors import causes, first_line, system_error
from ddpm_jax.runtime import storage
from ddpm_jax.runtime.buckets import AnyPath, may_pass
from ddpm_jax.runtime.devices import is_first, to_host
from ddpm_jax.training.state import Tree

# A part of a checkpoint is absent, which is damage: the exceptions of Python, and the error numbers of the system,
# which TensorStore puts into its messages.
_ABSENT_ERRORS = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
# The first words of TensorStore's messages about errors that do not come from the files.
_NETWORK = re.compile("(UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED|PERMISSION_DENIED|UNAUTHENTICATED)\\b")

_THREADS = 4  # for hashing

Leaf: TypeAlias = jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct
"""A leaf of a `Tree`."""


class DamagedError(Exception):
    """The content of a checkpoint is not what was saved, or is not finite; the message names the part."""


class Record(NamedTuple):
    """What is stored beside the arrays of a checkpoint.

    Attributes:
      config: the configuration of the run, as JSON.
      digests: of the leaves of the state, `{leaf: "float32[3,3] SHA-256"}`; None if an earlier version, which stored
        no digests, made the checkpoint.
    """

    config: dict[str, Any]
    digests: Mapping[str, str] | None


def to_json(record: Record) -> dict[str, Any]:
    """Returns the record as JSON, with the digest of this JSON itself."""
    content = {"config": record.config, "digests": dict(record.digests or {})}
    return {**content, "sha256": _sha256_of_json(content)}


def from_json(stored: Any) -> Record:
    """Returns the record that `to_json` made JSON of; earlier versions stored the configuration alone.

    Args:
      stored: anything that was read as JSON.

    Raises:
      DamagedError: it is neither of the two, or not what was saved.
    """
    if isinstance(stored, dict) and stored.keys() == {"config", "digests", "sha256"}:
        if stored["sha256"] != _sha256_of_json({key: stored[key] for key in ("config", "digests")}):
            raise DamagedError("the digest of its configuration differs")
        return Record(stored["config"], stored["digests"])
    if isinstance(stored, dict) and {"data", "diffusion", "model", "train"} <= stored.keys():
        return Record(stored, None)
    raise DamagedError("it contains no configuration")


def digests(tree: Tree) -> dict[str, str]:
    """Returns the type, shape and SHA-256 of the values of every leaf of a tree of arrays, by the leaf's name."""
    running = []
    with ThreadPoolExecutor(_THREADS) as pool:  # hashlib releases Python's lock
        for name, leaf in _host_leaves(tree):
            running.append((name, pool.submit(_digest, leaf)))
            if len(running) > _THREADS:
                running[-_THREADS - 1][1].result()  # so that no more leaves than threads wait on the host
    return {name: digest.result() for name, digest in running}


def digests_on_first(tree: Tree) -> dict[str, str]:
    """Returns `digests` on the first process and `{}` on the others, which only help to gather the leaves."""
    if is_first():
        return digests(tree)
    for _ in _host_leaves(tree):
        pass
    return {}


def misfits(tree: Tree, expected: Mapping[str, str]) -> list[str]:
    """Returns the names of the leaves that were not saved, or were saved with another type or shape.

    Args:
      tree: shapes.
      expected: the digests of what was saved.
    """
    return [name for name, leaf in _leaves(tree) if expected.get(name, "").partition(" ")[0] != _form(leaf)]


def check(tree: Tree, expected: Mapping[str, str] | None) -> None:
    """Checks that the leaves of a restored tree are those that were saved, and are finite.

    Args:
      tree: arrays.
      expected: the digests of at least these leaves; None if no digests were stored.

    Raises:
      DamagedError: a leaf differs or is not finite.
    """
    for name, leaf in _host_leaves(tree):
        if expected is not None and expected.get(name) != _digest(leaf):
            raise DamagedError(f"the digest of {name} differs")
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not np.isfinite(leaf.astype(np.float32)).all():
            raise DamagedError(f"{name} is not finite")


def fingerprint(tree: Tree, settings: Any) -> str:
    """Returns sixteen hexadecimal digits that identify a tree of arrays together with settings.

    Args:
      tree: arrays.
      settings: anything that JSON can hold.
    """
    return _sha256_of_json({"digests": digests(tree), "settings": settings})[:16]


def obstacle(folder: AnyPath, error: BaseException) -> str | None:
    """Returns the reason, other than damage, why a checkpoint could not be read; None if the checkpoint is damaged.

    Args:
      folder: the folder of the checkpoint.
      error: the exception with which reading it ended.
    """
    for cause in causes(error):
        if isinstance(cause, DamagedError):
            return None
        if isinstance(cause, MemoryError) or "RESOURCE_EXHAUSTED" in str(cause):
            return f"out of memory ({first_line(cause)})"
        if isinstance(cause, ImportError) or "Unable to initialize backend" in str(cause) or _NETWORK.match(str(cause)):
            return first_line(cause)
        if not isinstance(folder, Path) and may_pass(cause):
            return first_line(cause)
        if isinstance(cause, OSError) and not isinstance(cause, _ABSENT_ERRORS):
            return cause.strerror or first_line(cause)
        number = system_error(cause)
        if number is not None and number not in _ABSENT:
            return errno.errorcode.get(number, str(number))
    return _unreadable(folder)


def _unreadable(folder: AnyPath) -> str | None:
    """Returns why some file below a folder cannot be read, or None if all can be read."""

    def refuse(error: OSError) -> NoReturn:
        raise error

    try:
        if not isinstance(folder, Path):
            for path, _ in storage.files_below(folder):
                storage.read_bytes(path)
            return None
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


def _leaves(tree: Tree) -> Iterator[tuple[str, Leaf]]:
    """Yields the name and the value of every leaf; random keys are given as the integers that they consist of."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        numbers = jax.random.key_data if isinstance(leaf, jax.Array) else partial(jax.eval_shape, jax.random.key_data)
        yield jax.tree_util.keystr(path, simple=True, separator="/"), numbers(leaf) if is_key else leaf


def _host_leaves(tree: Tree) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the same as `_leaves`, with each value on the host."""
    for name, leaf in _leaves(tree):
        yield name, to_host(leaf) if isinstance(leaf, jax.Array) else np.asarray(leaf)


def _form(leaf: Leaf) -> str:
    """Returns the type and shape of an array, such as float32[3,3]."""
    return f"{leaf.dtype.name}[{','.join(map(str, leaf.shape))}]"


def _digest(leaf: np.ndarray) -> str:
    """Returns the type, shape and SHA-256 of an array's values."""
    values = np.ascontiguousarray(leaf).reshape(-1).view(np.uint8)
    return f"{_form(leaf)} {hashlib.sha256(values.data).hexdigest()}"


def _sha256_of_json(content: Any) -> str:
    """Returns the digest of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
