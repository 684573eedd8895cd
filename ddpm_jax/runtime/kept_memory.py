"""Bounds the memory that libraries keep for good at each checkpoint, so that training for a week does not grow.

TensorStore turns what it describes into Python dictionaries of which it never frees a key or a value (to version 0.1.86
at least: `PyDict_SetItem` is given references that it does not take). Orbax asks for one of each array at each save, of
a path that all arrays of a checkpoint share, and for the counters of all drivers, for a line of its log: together about
300 bytes for each array. glibc gives each new thread one of up to eight heaps ("arenas") per core; Orbax starts threads
at each save, and what these leave behind lies between what is in use and is not given back.
"""

import contextlib
import copy
import ctypes
import functools
import json
from types import ModuleType
from typing import Any

import tensorstore

_ARENA_MAX = -8
"""The number of glibc's `M_ARENA_MAX`."""


def one_arena() -> None:
    """Makes threads that start from now on use the main heap; nothing where the C library is not glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_ARENA_MAX, 1)


def keep_less_of_saves() -> None:
    """Makes Orbax ask TensorStore for the description of a path once for each checkpoint, and for no counters."""
    with contextlib.suppress(ImportError):  # a version without this module asks for neither
        from orbax.checkpoint._src.serialization import tensorstore_utils

        tensorstore_utils.ts = _OrbaxTensorStore("tensorstore")  # pyrefly: ignore[bad-assignment]  # for the module


@functools.lru_cache(1)
def _described(spec: str) -> dict[str, Any]:
    """The complete description of a key-value store, of its shortest form as JSON; must not be changed."""
    return tensorstore.KvStore.Spec(json.loads(spec)).to_json()


class _Spec:
    """A `tensorstore.KvStore.Spec` as Orbax uses it: made of a dictionary, to be turned into its complete form.

    Args:
      spec: the dictionary.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self._spec = json.dumps(spec)

    def to_json(self) -> dict[str, Any]:
        """The complete form; a copy."""
        return copy.deepcopy(_described(self._spec))


class _KvStore:
    """The class `tensorstore.KvStore` as Orbax sees it; every other name is that of the class."""

    Spec = _Spec

    def __getattr__(self, name: str) -> object:
        """The attribute of the class."""
        return getattr(tensorstore.KvStore, name)


class _OrbaxTensorStore(ModuleType):
    """The module `tensorstore` as Orbax's description of arrays sees it; every other name is that of TensorStore."""

    KvStore = _KvStore()

    @staticmethod
    def experimental_collect_matching_metrics(*names: str) -> list[dict[str, Any]]:
        """No counters: Orbax would log how many bytes were written, which `runtime/quiet.py` suppresses."""
        return []

    def __getattr__(self, name: str) -> object:
        """The attribute of the module."""
        return getattr(tensorstore, name)
