"""Checkpoints come back bit for bit and are kept as asked; a damaged one costs the steps since the one before."""

import errno
import json
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.tiny import same, tiny_config

from ddpm_jax.config import to_json
from ddpm_jax.diffusion import time_sampling
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.devices import device_mesh, replicated
from ddpm_jax.training import restoring
from ddpm_jax.training.checkpoint import Checkpoints
from ddpm_jax.training.divergence import no_steps
from ddpm_jax.training.restoring import restore_params, saved_steps, stored_config
from ddpm_jax.training.state import TrainState

CONFIG = tiny_config()
EIGHT = replicated(device_mesh())


def state_at(step, sharding=EIGHT):
    """A small state with every kind of leaf; no two steps share a value."""
    rng = np.random.default_rng(step)
    params = {"layer": {"kernel": rng.normal(size=(64, 32)).astype(np.float32), "bias": rng.normal(size=3)}}
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    opt_state = jax.tree.map(lambda leaf: leaf + step, optax.chain(optax.identity(), optax.adam(1e-3)).init(params))
    memory = jax.tree.map(lambda leaf: leaf + step, time_sampling.importance(4).init())
    average = jax.tree.map(lambda leaf: leaf + 0.5, params)
    state = TrainState(jnp.int32(step), params, average, opt_state, memory, jax.random.key(step), no_steps())
    return jax.device_put(state, sharding)


def target(sharding=EIGHT):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state_at(0))


def save(workdir, steps, **options):
    with Checkpoints(workdir, **options) as checkpoints:
        for step in steps:
            checkpoints.save(state_at(step), to_json(CONFIG))
    return workdir


def restore(workdir, **options):
    with Checkpoints(workdir, **options) as checkpoints:
        return checkpoints.restore(target())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run's directory with checkpoints of steps 6 and 8."""
    return save(tmp_path_factory.mktemp("saved"), (6, 8))


def test_a_save_compiles_nothing_and_stores_every_array_once(tmp_path):
    """Arrays that eight devices hold whole: Orbax by itself would cut each into eight pieces, by compiled programs."""
    state, compiled = state_at(1), []
    jax.block_until_ready(state)
    with Checkpoints(tmp_path) as checkpoints:

        def count(event, seconds, **options):
            if event == "/jax/core/compile/backend_compile_duration":
                compiled.append(seconds)

        jax.monitoring.register_event_duration_secs_listener(count)
        try:
            checkpoints.save(state, to_json(CONFIG))
            checkpoints.wait()
        finally:
            jax.monitoring.unregister_event_duration_listener(count)
    assert compiled == []
    written = json.loads((tmp_path / "checkpoints/1/state/array_metadatas/process_0").read_text())["array_metadatas"]
    shapes = [entry["array_metadata"]["write_shape"] for entry in written]
    leaves = [jax.random.key_data(leaf) if leaf is state.key else leaf for leaf in jax.tree.leaves(state)]
    assert shapes == [list(leaf.shape) for leaf in leaves]


@pytest.fixture
def copy(saved, tmp_path):
    """A copy of it, to be damaged."""
    return SimpleNamespace(workdir=shutil.copytree(saved, tmp_path / "run"), newest=tmp_path / "run/checkpoints/8")


def averaged(workdir):
    """Step and averaged parameters as sampling opens them."""
    step, _, restored = restore_params(workdir, lambda config: target().ema_params, name="ema_params")
    return step, restored


@pytest.mark.parametrize("count", [1, 8])
def test_a_state_comes_back_bit_for_bit_on_any_number_of_devices(saved, count):
    sharding = replicated(device_mesh(jax.devices()[:count]))
    with Checkpoints(saved) as checkpoints:
        restored = checkpoints.restore(target(sharding))
    assert same(restored, state_at(8))
    assert all(leaf.sharding == sharding for leaf in jax.tree.leaves(restored))
    assert jax.tree.map(lambda x: x.dtype, restored) == jax.tree.map(lambda x: x.dtype, state_at(8))


def test_parameters_alone_come_back_by_name(saved):
    for name in ("params", "ema_params"):
        step, config, restored = restore_params(saved, lambda config: target().params, name=name)
        assert (step, config) == (8, to_json(CONFIG))
        assert same(restored, getattr(state_at(8), name))


def test_configuration_and_parameters_are_of_one_checkpoint_whatever_comes_meanwhile(copy):
    """Another run's is saved while this one is opened; the newest one is damaged while it is opened."""
    aside, opened = copy.workdir / "7", []
    copy.newest.rename(aside)

    def of_six_while_eight_comes(config):
        opened.append(config)
        aside.rename(copy.newest)
        return target().params

    step, config, restored = restore_params(copy.workdir, of_six_while_eight_comes, name="params")
    assert (step, opened) == (6, [config])
    assert same(restored, state_at(6).params)

    def of_eight_while_it_is_lost(config):
        opened.append(config)
        shutil.rmtree(copy.newest, ignore_errors=True)
        return target().params

    assert restore_params(copy.workdir, of_eight_while_it_is_lost, name="params")[0] == 6
    assert len(opened) == 3


def test_a_configuration_that_makes_no_network_is_no_damage(saved, capsys):
    with pytest.raises(
        UserError, match=r"^the configuration of checkpoint .*/8 does not describe a valid network: 'channels'$"
    ):
        restore_params(saved, lambda config: {}["channels"], name="params")
    with pytest.raises(UserError, match=r"^newer$"):
        restore_params(saved, lambda config: refuses(), name="params")
    assert capsys.readouterr().err == ""


def refuses():
    """As of a configuration by a newer version."""
    raise UserError("newer")


def test_a_checkpoint_holds_its_configuration(saved):
    assert stored_config(saved) == to_json(CONFIG)


@pytest.mark.parametrize(("keep", "keep_every", "kept"), [(2, 0, [10, 9]), (1, 4, [10, 8, 4]), (3, 5, [10, 9, 8, 5])])
def test_the_latest_are_kept_and_one_in_so_many_for_good(tmp_path, keep, keep_every, kept):
    save(tmp_path, range(1, 11), keep=keep, keep_every=keep_every)
    assert saved_steps(tmp_path / "checkpoints") == kept
    assert same(restore(tmp_path, keep=keep, keep_every=keep_every), state_at(10))


@pytest.mark.parametrize(
    ("keep", "keep_every", "steps", "kept"),
    [
        (2, 0, [2, 4, 5, 7, 8, 9, 11, 13, 15], [15, 13, 8, 4]),
        (3, 0, [4, 5, 6], [6, 5, 4]),
        (3, 0, [1, 2, 3], [3, 2]),
        (1, 0, [4, 8, 9, 10], [10, 8]),
        (2, 8, [4, 8, 12, 16, 18, 20], [20, 18, 16, 8]),
    ],
)
def test_saves_out_of_turn_push_no_regular_one_out(tmp_path, keep, keep_every, steps, kept):
    """Every fourth step is saved in its turn; of the others no more remain than are among the newest two."""
    save(tmp_path, steps, every=4, keep=keep, keep_every=keep_every)
    assert saved_steps(tmp_path / "checkpoints") == kept
    assert same(restore(tmp_path, every=4, keep=keep, keep_every=keep_every), state_at(steps[-1]))


def test_steps_are_listed_newest_first_and_unfinished_ones_not(tmp_path):
    for name in ("9", "10", "100", "11.orbax-checkpoint-tmp", "notes", "\u00b2", "007"):
        (tmp_path / name).mkdir()
    assert saved_steps(tmp_path) == [100, 10, 9]
    assert saved_steps(tmp_path / "nothing") == []


def test_where_there_is_no_checkpoint_there_is_nothing_to_restore(tmp_path):
    assert restore(tmp_path) is None
    assert stored_config(tmp_path) is None
    with pytest.raises(UserError, match="has no checkpoint yet; train first"):
        averaged(tmp_path)


def test_an_interrupted_save_is_no_checkpoint_and_is_cleared_away(copy):
    unfinished = copy.newest.with_name("9.orbax-checkpoint-tmp")
    shutil.copytree(copy.newest, unfinished)
    assert averaged(copy.workdir)[0] == 8
    assert restore(copy.workdir).step == 8
    assert not unfinished.exists()


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


HARMS = {"deleted": lambda path: path.unlink(), "halved": halve, "emptied": empty}


@pytest.mark.parametrize("harm", [pytest.param("deleted", marks=pytest.mark.slow), "halved", "emptied"])
def test_whatever_file_is_damaged_the_state_is_whole_or_that_of_the_step_before(copy, harm, capfd):
    whole = copy.workdir.with_name("whole")
    shutil.copytree(copy.newest, whole)
    names = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    passed_over = 0
    for name in names:
        shutil.rmtree(copy.newest)
        shutil.copytree(whole, copy.newest)
        HARMS[harm](copy.newest / name)
        step, params = averaged(copy.workdir)
        assert same(params, state_at(step).ema_params), name
        assert stored_config(copy.workdir) == to_json(CONFIG)
        capfd.readouterr()
        restored = restore(copy.workdir)
        assert same(restored, state_at(int(restored.step))), name
        messages = capfd.readouterr().err
        assert "Traceback" not in messages, name
        if restored.step == 6:
            passed_over += 1
            assert f"warning: checkpoint {copy.newest} is damaged (" in messages
            shutil.rmtree(copy.workdir / "damaged_checkpoints" / "8")
            copy.newest.mkdir()
    assert passed_over >= 3  # the index of the arrays, their values, their metadata


def test_the_arrays_of_a_checkpoint_are_needed(copy, capfd):
    """Each array that cannot be read prints no traceback of its own while Orbax gives up."""
    for path in (copy.newest / "state").rglob("d/*"):
        path.unlink()
    for _ in range(3):
        assert averaged(copy.workdir)[0] == 6
    assert restore(copy.workdir).step == 6
    *messages, kept = capfd.readouterr().err.splitlines()
    assert len(messages) == 4
    assert all(line.startswith("warning: checkpoint ") and len(line) < 600 for line in messages), messages
    assert kept == f"note: the damaged checkpoint is kept in {copy.workdir / 'damaged_checkpoints' / '8'}"


def without_state(path):
    shutil.rmtree(path / "state")


def without_anything(path):
    shutil.rmtree(path)
    path.mkdir()


def a_file_instead(path):
    shutil.rmtree(path)
    path.write_text("")


def half_deleted(path):
    (path / "commit_success.txt").unlink()
    for part in (path / "state").rglob("manifest.ocdbt"):
        part.unlink()


@pytest.mark.parametrize("harm", [without_state, without_anything, a_file_instead, half_deleted])
def test_a_damaged_checkpoint_is_moved_aside_and_its_step_saved_again(copy, harm, capsys):
    for attempt in range(2):  # the second time, something lies aside already
        harm(copy.newest)
        step, params = averaged(copy.workdir)
        assert (step, same(params, state_at(6).ema_params)) == (6, True)
        with Checkpoints(copy.workdir) as checkpoints:
            assert same(checkpoints.restore(target()), state_at(6))
            checkpoints.save(state_at(8), to_json(CONFIG))
        assert str(copy.newest) in capsys.readouterr().err
        assert same(restore(copy.workdir), state_at(8))
        aside = sorted(path.name for path in (copy.workdir / "damaged_checkpoints").iterdir())
        assert aside == ["8", "8.1"][: attempt + 1]


def test_a_damaged_configuration_is_taken_from_the_checkpoint_before(copy, capsys):
    shutil.rmtree(copy.newest / "config")
    assert stored_config(copy.workdir) == to_json(CONFIG)
    assert f"warning: checkpoint {copy.newest} is damaged (" in capsys.readouterr().err


def test_a_run_with_nothing_but_damaged_checkpoints_is_one_line(copy):
    for step in (6, 8):
        for part in (copy.newest.with_name(str(step))).iterdir():
            shutil.rmtree(part) if part.is_dir() else part.unlink()
    for read in (restore, averaged, stored_config):
        with pytest.raises(UserError, match=r"^every checkpoint in .*checkpoints is damaged; move .*$"):
            read(copy.workdir)
    assert saved_steps(copy.newest.parent) == [8, 6]  # nothing was moved


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(errno.ENOSPC, "No space"), "No space; the last good checkpoint is step 8; free some space, and"),
        (
            OSError(errno.EACCES, "Denied"),
            "Denied; the last good checkpoint is step 8; fix the cause, and start again",
        ),
    ],
)
def test_a_save_that_fails_names_the_last_good_checkpoint(copy, monkeypatch, error, remedy):
    def fail(*args, **kwargs):
        raise RuntimeError("the save failed") from error

    with Checkpoints(copy.workdir) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "save", fail)
        with pytest.raises(UserError, match=remedy):
            checkpoints.save(state_at(9), to_json(CONFIG))


def test_leaving_after_an_error_hides_it_with_no_other(copy, monkeypatch, capsys):
    def fail():
        raise ValueError("a save in the background failed")

    def leave(error):
        with Checkpoints(copy.workdir) as checkpoints:
            monkeypatch.setattr(checkpoints._manager, "wait_until_finished", fail)
            if error:
                raise error

    with pytest.raises(KeyboardInterrupt):
        leave(KeyboardInterrupt())
    assert "warning: cannot save a checkpoint in " in capsys.readouterr().err
    with pytest.raises(UserError, match="a save in the background failed; the last good checkpoint is step 8"):
        leave(None)


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^cannot write to .*file/run: .*; choose another workdir$"):
        Checkpoints(tmp_path / "file" / "run")


def test_a_run_is_written_by_one_process_at_a_time(copy):
    """The second is refused before it clears away what the first is writing, which is free to be read."""
    with Checkpoints(copy.workdir):
        under_way = copy.workdir / "checkpoints" / "12.orbax-checkpoint-tmp"
        under_way.mkdir()
        with pytest.raises(
            UserError, match=rf"^another process is training in {copy.workdir}; wait until it ends, or choose"
        ):
            Checkpoints(copy.workdir)
        assert under_way.exists()
        assert averaged(copy.workdir)[0] == 8
    with Checkpoints(copy.workdir) as checkpoints:
        checkpoints.save(state_at(9), to_json(CONFIG))  # which waits until it is cleared away
        assert not under_way.exists()


def test_long_errors_are_told_by_their_end():
    text = 'NOT_FOUND: Error opening "zarr" driver: ' + "x" * 200 + ": No such array: x=1 [tensorstore_spec='{}']\nmore"
    inner = ValueError(text)
    outer = RuntimeError("something failed")
    outer.__cause__ = inner
    assert restoring.reason(outer) == "No such array: x=1"
    assert restoring.reason(ValueError("short: yes\nmore")) == "short: yes"
    assert restoring.reason(KeyError()) == "KeyError"
