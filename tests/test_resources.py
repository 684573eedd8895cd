"""The dry run: what it counts is what a run holds, and the programs lower for machines that are not here."""

import builtins
import io
import re
import sys
import threading

import jax
import numpy as np
import pytest
from support.tiny import tiny_config

from ddpm_jax import factory
from ddpm_jax.errors import UserError
from ddpm_jax.jobs import kept_plans, resources, train
from ddpm_jax.jobs.plans import least_seconds, limit_lines
from ddpm_jax.runs.configured import chain_of
from ddpm_jax.runtime.devices import device_mesh
from ddpm_jax.runtime.peaks import peak_of
from ddpm_jax.runtime.progress import waiting
from ddpm_jax.training import loop

pytestmark = pytest.mark.usefixtures("quick_compilation")

GIB = 2**30


@pytest.fixture(scope="module")
def plans(quick_compilation):
    """Of the tiny configuration on eight devices, its state whole and cut over four of them."""
    return {fsdp: resources.plan(tiny_config(mesh__fsdp=fsdp)) for fsdp in (1, 4)}


@pytest.mark.slow
def test_what_is_counted_is_what_a_run_holds(plans, tmp_path):
    state = train.train(tiny_config(train__num_steps=1), tmp_path)
    held = [leaf for leaf in jax.tree.leaves(state) if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)]
    assert plans[1].state == sum(leaf.nbytes for leaf in held) + 8
    assert plans[1].parameters == sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert plans[1].batch == (8 * 8 * 8 + 8 * 4) / 8
    assert plans[1].mesh == {"data": 8, "fsdp": 1}
    assert plans[1].temporaries > 0
    assert plans[1].flops > 1e5
    assert plans[1].traffic > plans[1].state  # the optimiser alone reads and writes all of it


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [1, 4])
def test_what_is_sent_is_the_ideal_ring(plans, fsdp):
    """A sum of the gradient over eight devices, or what its parts need where the state is cut; metrics are small."""
    plan, size = plans[fsdp], 4 * plans[fsdp].parameters
    sent = sum(plan.sent.values())
    if fsdp == 1:
        assert plan.sent.keys() == {"all-reduce"}
        assert 2 * 7 / 8 * size < sent < 2 * 7 / 8 * size * 1.05
    else:
        # The parameters are collected for the forward and the backward pass, and the gradient is summed.
        assert (3 / 4 + 2 * 7 / 8) * size < sent
        assert "all-gather" in plan.sent


@pytest.mark.slow
def test_accumulation_takes_the_same_arithmetic():
    """XLA counts once what is in a loop, as the parts are on an accelerator."""
    config = tiny_config(train__accumulation=2, train__batch_size=16)
    whole = resources.plan(tiny_config(train__batch_size=16))
    assert resources.plan(config).flops == whole.flops


def test_the_limit_is_the_longer_of_two_times(plans):
    """275 TFLOP/s and 1,200 GB/s of a TPU v4."""
    on_v4 = plans[1]._replace(kind="TPU v4", flops=275e9, traffic=2.4e9)
    assert least_seconds(on_v4, peak_of("TPU v4")) == {"arithmetic": 1e-3, "memory traffic": 2e-3}
    said = "\n".join(limit_lines(on_v4, batch_size=64))
    assert "arithmetic           0.275 TFLOP per step and device, 1.000 ms at its peak" in said
    assert "memory traffic       2.400 GB per step and device, 2.000 ms at its peak" in said
    assert "at best             32,000 images/s, by the memory traffic" in said
    uncounted = limit_lines(on_v4._replace(traffic=None, sent={"all-gather": 1e9}, sent_is_all=False), batch_size=64)
    assert uncounted[1:] == [
        "memory traffic   not counted by XLA",
        "sent to others   at least 1.000 GB per step and device (all-gather 1.000)",
        "at best          unknown: XLA does not count all of it",
    ]
    assert "unknown: the peak rates of cpu" in limit_lines(plans[1], batch_size=64)[-1]


@pytest.mark.slow
def test_the_limit_of_a_step_with_a_loop_is_not_printed(monkeypatch):
    """As on a TPU, whose compiler does not say how often a loop is run."""
    pytest.importorskip("libtpu", reason="compiling for TPUs needs libtpu")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    plan = resources.plan(tiny_config(train__accumulation=2, train__batch_size=16), topology="v5e:2x2")
    assert plan.traffic is None
    assert limit_lines(plan, batch_size=16)[-1] == "at best          unknown: XLA does not count all of it"


def test_a_state_cut_over_four_devices_takes_a_quarter(plans):
    """But for what has no axis of four: the step, the last convolution's bias."""
    assert 0.25 <= plans[4].state / plans[1].state < 0.26
    assert plans[4].mesh == {"data": 2, "fsdp": 4}


def test_the_table_says_it(plans):
    text = "\n".join(resources.table(tiny_config(), plans[1]))
    for said in (
        f"{plans[1].parameters:,} parameters",
        "8 x cpu",
        "data 8 x fsdp 1",
        "is unknown",
        "TFLOP",
        "average 0.000",
    ):
        assert said in text
    assert "data set         stored on each device in addition" in text
    streamed = tiny_config(data__on_device=False)
    assert "data set" not in "\n".join(resources.table(streamed, plans[1]))


def test_the_images_of_a_program_are_assumed_in_words(plans):
    config = tiny_config(data__source="custom", data__on_device=False)
    line = "images           8x8, 1 channel: set data.image_size and data.channels to those of your source"
    assert line in resources.table(config, plans[1])
    assert not [said for said in resources.table(tiny_config(), plans[1]) if said.startswith("images")]
    with pytest.raises(UserError, match=r"^config.loss.kind is 'custom': .* given as loss= to train in Python$"):
        resources.plan(tiny_config(loss__kind="custom"))


def test_what_does_not_fit_is_refused_with_what_would_help(plans):
    small = plans[1]._replace(parts={"parameters": 15 * GIB}, temporaries=2 * GIB, memory=16 * GIB)
    with pytest.raises(
        UserError, match=r"^the step needs 17\.0 of 16 GiB per device; reduce the state \(config.mesh.fsdp"
    ):
        resources.table(tiny_config(), small)
    assert "of 32" in "\n".join(resources.table(tiny_config(), small._replace(memory=32 * GIB)))


def test_a_topology_needs_its_compiler(monkeypatch):
    imported = builtins.__import__

    def without_libtpu(name, *args, **options):
        if name == "libtpu":
            raise ImportError(name)
        return imported(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without_libtpu)
    with pytest.raises(UserError, match="pip install libtpu"):
        resources.topology_devices("v5e:2x2")


def test_a_compiler_in_use_is_named(monkeypatch):
    def locked(*args, **options):
        raise jax.errors.JaxRuntimeError("ABORTED: Internal error when accessing libtpu multi-process lockfile. Run")

    monkeypatch.setitem(sys.modules, "libtpu", sys)  # it is found
    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", locked)
    with pytest.raises(UserError, match=r"^topology=v5e:2x2: libtpu serves one program .* wait until that has ended"):
        resources.topology_devices("v5e:2x2")


@pytest.mark.parametrize("name", ["", "v5e", "v5e:", "V5E:2x2", "v5e:0x0", "v5e:4x", "v5e:4x4 ", "0xv5e:4x4", "xv5e:4"])
def test_what_is_no_slice_is_refused(name):
    with pytest.raises(UserError, match="is not a TPU slice: write it as v5e:4x4 or v4:2x2x4, two as 2xv5e:4x4"):
        resources.plan(tiny_config(), topology=name)


@pytest.mark.parametrize("key", ["mesh.fsdp", "train.accumulation", "train.batch_size"])
def test_numbers_that_make_no_sense_are_refused(key):
    with pytest.raises(UserError, match=f"config.{key}=0 must be at least 1"):
        resources.plan(tiny_config(**{key.replace(".", "__"): 0}))


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match="images cannot be divided evenly over 8 devices"):
        resources.plan(tiny_config(train__batch_size=12))


@pytest.mark.parametrize(("topology", "chips"), [("v4:2x2x2", 8), ("v5e:2x4", 8), ("v5p:2x2x1", 4), ("2xv5e:2x4", 16)])
def test_a_device_of_a_topology_is_a_chip(topology, chips, monkeypatch, capfd):
    """So that its memory is the chip's; and libtpu prints nothing of the TPU that is not here."""
    pytest.importorskip("libtpu", reason="compiling for TPUs needs libtpu")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    assert len(resources.topology_devices(topology)) == chips
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_the_programs_lower_for_other_machines(platform):
    """The train step, and a piece of the chain with guidance."""
    config = tiny_config(labels__num_classes=10, labels__dropout=0.1, sample__guidance_scale=2.0)
    model, mesh = factory.network(config), device_mesh()
    spec = factory.train_spec(config, model, num_images=100)
    shapes = loop.state_shapes(factory.state_init(config, model, spec))
    batch = {
        "image": jax.ShapeDtypeStruct((8, 8, 8, 1), np.uint8),
        "label": jax.ShapeDtypeStruct((8,), np.int32),
    }
    step = loop.compiled_step(spec, mesh, shapes)
    assert step.trace(shapes, batch).lower(lowering_platforms=(platform,)).as_text()
    kept = (batch, jax.ShapeDtypeStruct((8,), np.int32))
    step = loop.compiled_step(spec, mesh, shapes, gathers=True)
    assert step.trace(shapes, kept).lower(lowering_platforms=(platform,)).as_text()
    chain = chain_of(config, model, num_steps=4, mesh=mesh)
    assert chain.lower(shapes.params, batch_size=8, platform=platform).as_text()


def test_a_plan_is_kept_for_the_same_step_on_the_same_devices(plans, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    computed = []
    monkeypatch.setattr(kept_plans, "plan", lambda config, **options: computed.append(config) or plans[1])
    assert kept_plans.kept_plan(tiny_config()) == (plans[1], None)
    again, file = kept_plans.kept_plan(tiny_config())
    assert again == plans[1]
    assert file.parent == tmp_path / "ddpm_jax/plans"
    kept_plans.kept_plan(tiny_config(train__batch_size=16))
    assert len(computed) == 2
    file.write_text("{}")
    monkeypatch.setattr(kept_plans, "plan", lambda config, **options: plans[4])
    assert kept_plans.kept_plan(tiny_config()) == (plans[4], None)  # what cannot be read is made again
    monkeypatch.setattr(kept_plans, "_PACKAGES", ())
    assert kept_plans.kept_plan(tiny_config()) == (plans[4], None)  # of other versions


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("jax_default_matmul_precision", "highest"),
        ("jax_default_prng_impl", "rbg"),
        ("jax_enable_x64", True),
        ("jax_threefry_partitionable", False),
    ],
)
def test_a_plan_is_not_kept_for_other_settings_of_jax(setting, value, plans, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kept_plans, "plan", lambda config, **options: plans[1])
    kept_plans.kept_plan(tiny_config())
    before = getattr(jax.config, setting)
    assert before != value
    try:
        jax.config.update(setting, value)
        assert kept_plans.kept_plan(tiny_config()) == (plans[1], None)
    finally:
        jax.config.update(setting, before)
    assert kept_plans.kept_plan(tiny_config())[1] is not None


class _Told(io.StringIO):
    """A stream that says when something was written to it."""

    def __init__(self):
        super().__init__()
        self.told = threading.Event()

    def flush(self):
        self.told.set()


def test_a_long_wait_says_how_long_it_has_taken(monkeypatch):
    stream = _Told()
    monkeypatch.setattr(sys, "stderr", stream)
    with waiting("compiling", every=0.01):
        assert stream.told.wait(60)
    assert re.match(r"compiling: \d+ s so far\n", stream.getvalue())
