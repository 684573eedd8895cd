"""The real loop: resumed, killed, interrupted, on one device and on eight, it is the same run."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from PIL import Image
from support.tiny import ROOT, arguments, random_state, same, tiny_config, untimed
from support.tiny import run as run_program

from ddpm_jax import factory
from ddpm_jax.commands import endings
from ddpm_jax.data.pipeline import batch_indices
from ddpm_jax.errors import UserError
from ddpm_jax.jobs import preparation, train
from ddpm_jax.runs.configured import chain_of
from ddpm_jax.runtime.devices import device_mesh, global_batch, sharded
from ddpm_jax.runtime.images import tile_images, to_uint8
from ddpm_jax.training import log, loop
from ddpm_jax.training.restoring import saved_steps
from ddpm_jax.training.step import train_step

pytestmark = pytest.mark.usefixtures("quick_compilation")

# Everything that is random or remembered is at work: dropout, flips, parts of a batch, times drawn by their losses.
BUSY = {
    "model__dropout": 0.1,
    "data__random_flip": True,
    "train__accumulation": 2,
    "train__batch_size": 16,
    "loss__times": "importance",
    "diffusion__num_timesteps": 4,
    "optim__warmup_steps": 2,
    "checkpoint__every": 4,
}


def damage(checkpoint):
    """Empties the files of a checkpoint's state."""
    for path in (checkpoint / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")


TRACES = []


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, quick_compilation):
    """An uninterrupted run of eight steps: its directory and final state."""

    @functools.wraps(train_step)
    def counted(*args):
        TRACES.append(args)
        return train_step(*args)

    workdir = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(loop, "train_step", counted)
        return workdir, train.train(tiny_config(**BUSY), workdir)


def test_a_run_traces_its_step_once(whole_run):
    assert len(TRACES) == 1


def test_a_run_remembers_and_logs_every_step(whole_run):
    workdir, state = whole_run
    lines = untimed(workdir)
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert len({line["loss"] for line in lines}) == 8
    np.testing.assert_allclose([line["learning_rate"] for line in lines], [0, 5e-4, *[1e-3] * 6], rtol=1e-6)
    assert not same(state.params, state.ema_params)
    assert np.all(state.times.count == 10)  # times are drawn by their losses by now
    assert saved_steps(workdir / "checkpoints") == [8, 4]


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(whole_run, tmp_path, capsys):
    workdir, state = whole_run
    train.train(tiny_config(**BUSY, train__num_steps=5), tmp_path)
    resumed = train.train(tiny_config(**BUSY), tmp_path)
    assert same(resumed, state)
    assert "resuming from step 5" in capsys.readouterr().out
    assert untimed(tmp_path) == untimed(workdir)


def test_a_finished_run_is_not_trained_again(whole_run, monkeypatch):
    workdir, state = whole_run
    before = (workdir / "log.jsonl").read_text()
    monkeypatch.setattr(loop, "train_step", lambda *args: pytest.fail("a step was taken"))
    assert same(train.train(tiny_config(**BUSY), workdir), state)
    assert (workdir / "log.jsonl").read_text() == before


def start(workdir, config):
    """The training program as a process of its own, with the tests' devices."""
    command = [sys.executable, "train.py", f"--workdir={workdir}", *arguments(config)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def logged(workdir):
    """The last step that is in the log of a run that is being written."""
    path = workdir / "log.jsonl"
    text = path.read_text() if path.exists() else ""
    lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return json.loads(lines[-1])["step"] if lines else 0


def wait_until(condition, process):
    """Waits as long as the process runs, which ends by itself after its last step."""
    while not condition():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.001)


def between_saves(workdir):
    """Whether steps were taken that no checkpoint has, and none is being saved."""
    folder = workdir / "checkpoints"
    return logged(workdir) > max(saved_steps(folder), default=1000) and not list(folder.glob("*tmp*"))


def within_a_save(workdir):
    """Whether a checkpoint is half written, and another is there to fall back on."""
    folder = workdir / "checkpoints"
    return bool(saved_steps(folder)) and bool(list(folder.glob("*tmp*/state*")))


def kill(workdir, config, when):
    """Trains in a process until `when(workdir)` and kills it there, the process standing still meanwhile."""
    process = start(workdir, config)
    with process:
        while True:
            wait_until(lambda: when(workdir), process)
            process.send_signal(signal.SIGSTOP)
            if when(workdir):
                break
            process.send_signal(signal.SIGCONT)
        process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("when", [between_saves, within_a_save])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, when, capsys):
    kill(tmp_path / "killed", tiny_config(**BUSY, train__num_steps=100_000), when)
    saved, begun = saved_steps(tmp_path / "killed" / "checkpoints")[0], logged(tmp_path / "killed")
    config = tiny_config(**BUSY, train__num_steps=begun + 2)
    resumed = train.train(config, tmp_path / "killed")
    assert f"resuming from step {saved}\n" in capsys.readouterr().out
    assert same(resumed, train.train(config, tmp_path / "whole"))
    assert untimed(tmp_path / "killed") == untimed(tmp_path / "whole")
    assert [line["step"] for line in log.read_log(tmp_path / "killed")] == list(range(1, begun + 3))
    assert not list((tmp_path / "killed" / "checkpoints").glob("*tmp*"))


@pytest.mark.slow
def test_a_terminated_process_saves_and_asks_to_be_started_again(tmp_path):
    config = tiny_config(**{**BUSY, "checkpoint__every": 100_000}, train__num_steps=100_000)
    process = start(tmp_path / "run", config)
    wait_until(lambda: logged(tmp_path / "run") >= 2, process)
    process.send_signal(signal.SIGTERM)
    output = process.communicate()[0]
    assert process.returncode == endings.START_AGAIN, output
    (step,) = saved_steps(tmp_path / "run" / "checkpoints")
    assert step == logged(tmp_path / "run")
    assert f"\ninterrupted: step {step} is saved; the same command resumes from there\n" in output
    assert "Traceback" not in output


def signal_at(step, number, monkeypatch, *, times=1):
    """Sends this process a signal while a step is logged, in its first run."""
    add = log.RunLog.add

    def add_and_signal(self, now, metrics):
        add(self, now, metrics)
        if now == step:
            monkeypatch.setattr(log.RunLog, "add", add)
            for _ in range(times):
                signal.raise_signal(number)
                time.sleep(0.1)  # two at once are one

    monkeypatch.setattr(log.RunLog, "add", add_and_signal)


def test_an_interrupted_run_saves_its_step_and_goes_on_bit_for_bit(whole_run, tmp_path, monkeypatch, capsys):
    before = signal.getsignal(signal.SIGINT)
    signal_at(3, signal.SIGINT, monkeypatch)
    assert train.train(tiny_config(**BUSY), tmp_path).step == 3
    assert "interrupted: step 3 is saved; the same command resumes" in capsys.readouterr().err
    assert saved_steps(tmp_path / "checkpoints") == [3]
    assert signal.getsignal(signal.SIGINT) == before
    assert same(train.train(tiny_config(**BUSY), tmp_path), whole_run[1])
    assert untimed(tmp_path) == untimed(whole_run[0])


def test_a_second_signal_ends_the_run_at_once(tmp_path, monkeypatch):
    signal_at(5, signal.SIGINT, monkeypatch, times=2)
    with pytest.raises(KeyboardInterrupt):
        train.train(tiny_config(**BUSY), tmp_path)
    assert saved_steps(tmp_path / "checkpoints") == [4]


def one_step(config, count, *, step=0):
    """The state before, as it is left behind, and what the compiled step on so many devices returns."""
    mesh, model = device_mesh(jax.devices()[:count], fsdp=config.mesh.fsdp), factory.network(config)
    state = random_state(config, step=step)
    state = jax.device_put(state, sharded(mesh, state))
    rng = np.random.default_rng(0)
    batch = {"image": rng.integers(0, 256, (16, 8, 8, 1), np.uint8), "label": np.zeros(16, np.int32)}
    step = loop.compiled_step(factory.train_spec(config, model, num_images=1297), mesh, state)
    return state, *step(state, global_batch(mesh, batch))


@pytest.mark.slow
def test_devices_and_accumulation_change_nothing_but_rounding():
    """Of the gradient, which Adam's first moments remember: its own step is the gradient's sign."""
    config = {"data__random_flip": True, "train__batch_size": 16, "optim__warmup_steps": 0}
    _, state, metrics = one_step(tiny_config(**config), 1)
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(state.opt_state))
    for accumulation, count, fsdp in ((1, 8, 1), (4, 1, 1), (2, 4, 4), (1, 2, 2)):
        cut = tiny_config(**config, train__accumulation=accumulation, mesh__fsdp=fsdp)
        _, other, other_metrics = one_step(cut, count)
        for one, another in zip(*map(jax.tree.leaves, (metrics, other_metrics)), strict=True):
            np.testing.assert_allclose(another, one, rtol=2e-5)
        for leaf, other_leaf in zip(*map(jax.tree.leaves, (state.opt_state, other.opt_state)), strict=True):
            np.testing.assert_allclose(other_leaf, leaf, rtol=1e-4, atol=1e-5 * np.max(np.abs(leaf)))


@pytest.mark.slow
def test_a_run_moves_from_eight_devices_to_one_to_four(tmp_path, monkeypatch):
    """Twenty steps by the checkpoints of three meshes, one of them cut: the losses are those of one mesh."""
    settings = {"train__batch_size": 16, "model__dropout": 0.1, "checkpoint__every": 100}
    train.train(tiny_config(**settings, train__num_steps=20), tmp_path / "eight")
    for count, fsdp, num_steps in ((8, 1, 6), (1, 1, 13), (4, 4, 20)):
        monkeypatch.setattr(preparation, "device_mesh", lambda fsdp, n=count: device_mesh(jax.devices()[:n], fsdp=fsdp))
        train.train(tiny_config(**settings, train__num_steps=num_steps, mesh__fsdp=fsdp), tmp_path / "moved")
    losses = lambda workdir: [line["loss"] for line in log.read_log(workdir)]
    assert len(losses(tmp_path / "moved")) == 20
    np.testing.assert_allclose(losses(tmp_path / "moved"), losses(tmp_path / "eight"), rtol=1e-5)


@pytest.mark.slow
def test_a_cut_state_takes_its_share_of_the_bytes(tmp_path):
    """Of every leaf but those that have no axis of four; and the run is one, on disk too."""
    config = tiny_config(mesh__fsdp=4, train__num_steps=2, checkpoint__every=1)
    state = train.train(config, tmp_path)
    kept = [leaf for leaf in jax.tree.leaves((state.params, state.ema_params, state.opt_state)) if leaf.size > 8]
    here = [leaf.addressable_shards[0].data.nbytes / leaf.nbytes for leaf in kept]
    assert sum(part == 0.25 for part in here) / len(here) > 0.9
    whole = train.train(tiny_config(train__num_steps=4), tmp_path)
    assert whole.step == 4
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(whole.params))


def test_devices_that_do_not_divide_are_a_users_mistake(tmp_path):
    with pytest.raises(UserError, match=r"^config.mesh.fsdp=3 does not divide 8 devices$"):
        train.train(tiny_config(mesh__fsdp=3), tmp_path / "run")


@pytest.mark.slow
def test_the_state_is_donated_and_a_step_repeats():
    config = tiny_config(**BUSY)
    before, after, metrics = one_step(config, 8, step=5)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
    _, again, same_metrics = one_step(config, 8, step=5)
    assert same(again, after)
    assert same(same_metrics, metrics)
    assert after.step == 6


@pytest.mark.parametrize(
    ("every", "message", "saved"),
    [
        (4, r"the loss became \w+ .* at step 3", []),
        pytest.param(1, "the parameters became infinite at step 2", [1], marks=pytest.mark.slow),
    ],
)
def test_a_run_that_diverges_stops_with_the_step_and_saves_nothing_of_it(tmp_path, every, message, saved):
    """The learning rate warms up from 0: the first step is harmless, the second is not, the third can tell."""
    wild = {"optim__learning_rate": 1e38, "optim__grad_clip": 0.0, "checkpoint__every": every}
    kept = "the last good checkpoint is step 1" if saved else "no checkpoint was found"
    images = ", ".join(map(str, batch_indices(1297, batch_size=16, seed=0, step=2 - len(saved))[:8]))
    expected = rf"^{message}, on images {images}, ... of the data; {kept}; lower config.optim.learning_rate, [^\n]*$"
    with pytest.raises(UserError, match=expected):
        train.train(tiny_config(**{**BUSY, **wild}), tmp_path)
    assert saved_steps(tmp_path / "checkpoints") == saved
    assert all(np.isfinite(line["loss"]) for line in log.read_log(tmp_path))


def test_another_model_in_the_directory_is_refused_and_harmless_changes_are_told(whole_run, capsys):
    workdir, state = whole_run
    with pytest.raises(UserError, match=r"holds another run: model.channels is 8 there and 16 here;"):
        train.train(tiny_config(**BUSY, model__channels=16), workdir)
    assert same(train.train(tiny_config(**BUSY, optim__learning_rate=3e-4), workdir), state)
    told = "note: optim.learning_rate was 0.001 in this run so far and is 0.0003 from now on\n"
    assert told in capsys.readouterr().out


@pytest.mark.slow
def test_a_finished_run_says_so_and_draws_only_what_is_missing(tmp_path):
    def start():
        config = tiny_config(train__num_steps=2, checkpoint__every=1)
        return run_program("train.py", f"--workdir={tmp_path}", *arguments(config))

    picture = tmp_path / "samples.png"
    said = start().out
    assert said.startswith(f"training tiny up to step 2 in {tmp_path}\n")
    assert "done: step 2 after " in said
    drawn = picture.read_bytes()
    picture.write_bytes(b"kept")
    assert f"done: step 2 was reached before; samples in {picture}, checkpoint in" in start().out
    assert picture.read_bytes() == b"kept"
    picture.unlink()
    assert "done: step 2 was reached before" in start().out
    assert picture.read_bytes() == drawn
    picture.write_bytes(b"of a step that was lost")
    damage(tmp_path / "checkpoints" / "2")
    assert "done: step 2 after " in start().out
    assert picture.read_bytes() == drawn


@pytest.mark.parametrize(
    ("changes", "noted"),
    [
        (
            {"optim__warmup_steps": 1},
            "note: optim.warmup_steps=1 is not below train.num_steps=1, so the learning rate never reaches its peak",
        ),
        (
            {"optim__decay_steps": 3, "train__num_steps": 4},
            "note: the learning rate is 0 after optim.warmup_steps=0 and optim.decay_steps=3 steps, so",
        ),
        ({"optim__decay_steps": 4, "train__num_steps": 4}, None),
        (
            {"diffusion__num_timesteps": 100},
            "note: 36% of an image's power remains at t = T, but sampling starts from",
        ),
        ({}, None),
    ],
)
def test_settings_that_are_seldom_meant_are_noted(changes, noted, tmp_path, capsys, monkeypatch):
    """Before the first step, which need not be taken for it."""
    monkeypatch.setattr(train, "train_loop", lambda step_fn, state, batches, **options: state)
    monkeypatch.setattr(train, "_restored_or_new", lambda *args, **options: random_state(tiny_config()))
    sound = {"optim__warmup_steps": 0, "diffusion__num_timesteps": 1000, "train__num_steps": 1}
    train.train(tiny_config(**{**sound, **changes}), tmp_path)
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert len(told) == bool(noted)
    assert not noted or told[0].startswith(noted)


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(whole_run, tmp_path, capsys):
    workdir = shutil.copytree(whole_run[0], tmp_path / "run")
    newest = workdir / "checkpoints" / "8"
    damage(newest)
    assert same(train.train(tiny_config(**BUSY), workdir), whole_run[1])
    assert f"warning: checkpoint {newest} is damaged (" in capsys.readouterr().err
    assert untimed(workdir) == untimed(whole_run[0])
    assert saved_steps(workdir / "checkpoints") == [8, 4]
    assert (workdir / "damaged_checkpoints" / "8").is_dir()


def test_previews_are_drawn_from_both_sets_of_parameters_and_change_nothing(whole_run, tmp_path):
    config = tiny_config(**BUSY, log__preview_every=4, log__preview_steps=3)
    state = train.train(config, tmp_path)
    assert same(state, whole_run[1])
    names = {f"{name}_{step:07d}.png" for name in ("raw", "ema") for step in (4, 8)}
    assert {path.name for path in (tmp_path / "previews").iterdir()} == names
    chain = chain_of(config, factory.network(config), num_steps=3, mesh=device_mesh())
    for name, params in (("raw", state.params), ("ema", state.ema_params)):
        images = to_uint8(chain(params, jax.random.key(0), indices=np.arange(4)))
        preview = np.asarray(Image.open(tmp_path / "previews" / f"{name}_0000008.png"))
        np.testing.assert_array_equal(preview, tile_images(images)[..., 0])


def test_what_sampling_would_refuse_in_the_end_is_refused_in_the_beginning(tmp_path):
    for overrides, message in [
        ({"sample__variance": "learned"}, "this model has no learned variance"),
        ({"sample__num_steps": 21}, "cannot make a chain of 21 steps"),
        ({"sample__eta": 2.0}, "config.sample.eta=2.0 must be at least 0 and at most 1"),
    ]:
        with pytest.raises(UserError, match=message):
            train.train(tiny_config(**overrides), tmp_path / "run")
    assert not os.listdir(tmp_path)
