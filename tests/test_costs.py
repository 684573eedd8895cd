"""What devices send each other, against the ideal ring, for programs whose exchanges are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ddpm_jax.jobs import costs

SIZE = 4 * 128 * 64  # bytes of a part of the array below
CUT = P("x")


def compiled(function, *, out, shape=(8,), axes=("x",), split=CUT):
    """The text of a program for eight devices, of an array that is cut along them."""
    mesh = Mesh(np.array(jax.devices()).reshape(shape), axes)
    place = lambda spec: NamedSharding(mesh, spec)
    mapped = jax.shard_map(function, mesh=mesh, in_specs=split, out_specs=out, check_vma=False)
    array = jax.ShapeDtypeStruct((1024, 64), jnp.float32, sharding=place(split))
    return jax.jit(mapped).lower(array).compile().as_text()


EXCHANGES = {
    "all-reduce": (lambda x: jax.lax.psum(x, "x"), P(), 2 * 7 / 8 * SIZE),
    "all-gather": (lambda x: jax.lax.all_gather(x, "x", tiled=True), P(), 7 * SIZE),
    "reduce-scatter": (lambda x: jax.lax.psum_scatter(x, "x", tiled=True), P("x"), 7 / 8 * SIZE),
    "all-to-all": (lambda x: jax.lax.all_to_all(x, "x", 0, 1, tiled=True), P(None, "x"), 7 / 8 * SIZE),
    "collective-permute": (
        lambda x: jax.lax.ppermute(x, "x", [(i, (i + 1) % 8) for i in range(8)]), P("x"), SIZE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", EXCHANGES)
def test_an_exchange_is_counted_as_around_a_ring(kind):
    function, out, expected = EXCHANGES[kind]
    assert costs.bytes_sent(compiled(function, out=out), 8) == ({kind: expected}, True)


def test_an_exchange_within_groups_and_in_a_loop():
    """Along an axis of two, and of four; five times in a scan."""
    grid = {"shape": (2, 4), "axes": ("a", "b"), "split": P(("a", "b"))}
    for axis, n in (("a", 2), ("b", 4)):
        text = compiled(lambda x, axis=axis: jax.lax.psum(x, axis), out=P(("a", "b")), **grid)
        assert costs.bytes_sent(text, 8) == ({"all-reduce": 2 * (n - 1) / n * SIZE}, True)

    def five(x):
        return jax.lax.scan(lambda x, _: (jnp.sin(jax.lax.psum(x, "x")), None), x, length=5)[0]

    text, once = compiled(five, out=P()), 2 * 7 / 8 * SIZE
    assert costs.bytes_sent(text, 8) == ({"all-reduce": 5 * once}, True)
    assert costs.has_loop(text, 5)
    assert not costs.has_loop(text, 4)
    text = text.replace("known_trip_count", "another")  # as libtpu leaves it out
    assert costs.bytes_sent(text, 8) == ({"all-reduce": once}, False)
    assert costs.has_loop(text, 4)


def test_a_loop_of_unknown_length_that_sends_nothing_leaves_the_rest_whole():
    def loop_first(x):
        return jax.lax.psum(jax.lax.scan(lambda x, _: (jnp.sin(x), None), x, length=5)[0], "x")

    text = compiled(loop_first, out=P()).replace("known_trip_count", "another")
    assert costs.has_loop(text, 4)
    assert costs.bytes_sent(text, 8) == ({"all-reduce": 2 * 7 / 8 * SIZE}, True)


def test_a_program_of_one_device_sends_nothing():
    text = jax.jit(jnp.sin).lower(jax.ShapeDtypeStruct((8,), "float32")).compile().as_text()
    assert costs.bytes_sent(text, 1) == ({}, True)


# Lines as compilers for TPUs and GPUs write them: started here and awaited elsewhere, with layouts and tuples.
LINES = {
    "  %all-reduce-start.1 = (f32[256]{0:T(256)}, /*index=1*/bf16[8,128]{1,0:T(8,128)(2,1)S(1)}) all-reduce-start("
    "%a, %b), channel_id=1, replica_groups={{0,1},{2,3}}, to_apply=%add": {"all-reduce": 1024 + 2048},
    "  %ag = (f32[64]{0}, f32[256]{0}) all-gather-start(f32[64]{0} %a), replica_groups=[1,4]<=[4], dimensions={0}": {
        "all-gather": 768
    },
    "  ROOT %rs = f32[64]{0} reduce-scatter(%a), replica_groups=[2,4]<=[8], to_apply=%add": {"reduce-scatter": 768},
    "  %cp = (f8e4m3fn[64]{0}, f8e4m3fn[64]{0}, u32[], u32[]) collective-permute-start(%a), "
    "source_target_pairs={{0,1}}": {"collective-permute": 64},
    "  %done = f32[256]{0} all-reduce-done(%all-reduce-start.1)": {},
}


@pytest.mark.parametrize("line", LINES)
def test_lines_of_other_compilers(line):
    sent, is_all = costs.bytes_sent("ENTRY %main (a: f32[64]) -> f32[64] {\n" + line + "\n}", 4)
    assert sent == pytest.approx(LINES[line])
    assert is_all
