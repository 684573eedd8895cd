"""What other libraries keep of the memory at each checkpoint is little, and what they do with it is the same."""

import gc
import subprocess
import sys

import jax.numpy as jnp
import orbax.checkpoint as ocp
import pytest
import tensorstore
from orbax.checkpoint._src.serialization import tensorstore_utils

from ddpm_jax.runtime import kept_memory

kept_memory.keep_less_of_saves()
SPEC = {"driver": "file", "path": "/tmp/a/"}


def kept_of_saves(folder, num_arrays, saves=5):
    """How many blocks of Python's memory each save leaves in use."""
    tree = {f"layer_{i}": jnp.full((4, 4), i, jnp.float32) for i in range(num_arrays)}
    writer = ocp.PyTreeCheckpointer()
    writer.save(folder / "warm", tree)
    gc.collect()
    before = sys.getallocatedblocks()
    for i in range(saves):
        writer.save(folder / str(i), tree)
    gc.collect()
    return (sys.getallocatedblocks() - before) / saves


def test_a_save_keeps_nothing_for_each_array(tmp_path):
    few, many = (kept_of_saves(tmp_path / str(num), num) for num in (10, 110))
    assert many - few < 100  # TensorStore would keep 4 blocks of each array, which are 400


def test_descriptions_are_those_of_tensorstore():
    described = tensorstore_utils.ts.KvStore.Spec(SPEC).to_json()
    assert described == tensorstore.KvStore.Spec(SPEC).to_json()
    described["path"] = "changed"
    assert tensorstore_utils.ts.KvStore.Spec(SPEC).to_json()["path"] == "/tmp/a/"


def test_mistakes_are_those_of_tensorstore():
    with pytest.raises(ValueError, match="driver"):
        tensorstore_utils.ts.KvStore.Spec({"driver": "none of them"}).to_json()


def test_the_rest_is_that_of_tensorstore():
    assert tensorstore_utils.ts.open is tensorstore.open
    assert tensorstore_utils.ts.KvStore.open is tensorstore.KvStore.open


ARENAS = """
import ctypes, threading, sys
from ddpm_jax.runtime.kept_memory import one_arena
if sys.argv[1] == "one": one_arena()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def allocate(): pieces.append(libc.malloc(1000))
heap, pieces = libc.malloc(1000), []
for _ in range(8): thread = threading.Thread(target=allocate); thread.start(); thread.join()
print(max(abs(piece - heap) for piece in pieces) < 2**30)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's arenas")
@pytest.mark.parametrize(("arenas", "on_the_heap"), [("one", "True"), ("many", "False")])
def test_threads_share_one_heap(arenas, on_the_heap):
    command = [sys.executable, "-c", ARENAS, arenas]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == on_the_heap
