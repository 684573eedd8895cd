"""A checkpoint is opened only where every value is what was saved; what cannot be read is neither moved nor skipped."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_checkpoint import CONFIG, EIGHT, averaged, restore, same, save, state_at, target

from ddpm_jax.config import to_json
from ddpm_jax.errors import UserError
from ddpm_jax.training import integrity, restoring
from ddpm_jax.training.checkpoint import Checkpoints
from ddpm_jax.training.integrity import DamagedError, Record
from ddpm_jax.training.restoring import restore_params, saved_steps, stored_config


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run's directory with checkpoints of steps 6 and 8."""
    return save(tmp_path_factory.mktemp("saved"), (6, 8))


@pytest.fixture
def workdir(saved, tmp_path):
    """A copy of it, to be damaged."""
    return shutil.copytree(saved, tmp_path / "run")


def values(workdir):
    """The file of the newest checkpoint that holds the values of the arrays."""
    return max((workdir / "checkpoints/8/state").rglob("d/*"), key=lambda path: path.stat().st_size)


def test_a_digest_is_that_of_the_values_and_their_form():
    tree = {"a": jnp.arange(6, dtype=jnp.float32).reshape(2, 3), "b": [jnp.bfloat16(2), jax.random.key(5)]}
    numbers = np.arange(6, dtype=np.float32)
    assert integrity.digests(tree) == {
        "a": "float32[2,3] " + hashlib.sha256(numbers.tobytes()).hexdigest(),
        "b/0": "bfloat16[] " + hashlib.sha256(b"\x00\x40").hexdigest(),
        "b/1": "uint32[2] " + hashlib.sha256(np.array([0, 5], np.uint32).tobytes()).hexdigest(),
    }


def test_few_leaves_are_on_the_host_at_once_while_they_are_hashed(monkeypatch):
    """Of a cut state each is gathered for it, and all together may be more than a host holds."""
    begun, done, original, ahead = [], [], integrity._digest, []
    tree = {f"{i:02}": jnp.full(3, i) for i in range(40)}
    expected = integrity.digests(tree)

    def leaves(tree):
        for name, leaf in sorted(tree.items()):
            begun.append(name)
            ahead.append(len(begun) - len(done))
            yield name, np.asarray(leaf)

    def digest(leaf):
        time.sleep(0.001)
        result = original(leaf)
        done.append(result)
        return result

    monkeypatch.setattr(integrity, "_host_leaves", leaves)
    monkeypatch.setattr(integrity, "_digest", digest)
    assert integrity.digests(tree) == expected
    assert max(ahead) <= integrity._THREADS + 1


def test_the_other_processes_hash_nothing_and_gather_all(monkeypatch):
    tree, gathered = {"a": jnp.zeros(3), "b": jnp.ones(3)}, []
    monkeypatch.setattr(integrity, "to_host", lambda leaf: gathered.append(leaf) or np.asarray(leaf))
    assert integrity.digests_on_first(tree) == integrity.digests(tree)
    gathered.clear()
    monkeypatch.setattr(integrity, "is_first", lambda: False)
    assert integrity.digests_on_first(tree) == {}
    assert len(gathered) == 2


def test_a_flipped_bit_costs_the_checkpoint_and_nothing_else(tmp_path, capsys):
    """Arrays above a hundred kilobytes are stored without a checksum: Orbax reads them without a word."""
    large = {"layer": {"kernel": jnp.asarray(np.random.default_rng(0).normal(size=(300, 200)), jnp.float32)}}
    states = {step: state_at(step).replace(ema_params=jax.tree.map(lambda x, s=step: x + s, large)) for step in (6, 8)}
    with Checkpoints(tmp_path) as checkpoints:
        for state in states.values():
            checkpoints.save(state, to_json(CONFIG))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=EIGHT), large)
    file, found = values(tmp_path), 0
    data = file.read_bytes()
    for at in range(0, len(data), len(data) // 25):
        file.write_bytes(data[:at] + bytes([data[at] ^ 64]) + data[at + 1 :])
        step, _, params = restore_params(tmp_path, lambda config: shapes, name="ema_params")
        assert same(params, states[step].ema_params)
        found += "(the digest of ema_params/layer/kernel differs)" in capsys.readouterr().err
    assert found > 20


def test_a_changed_configuration_is_found(workdir, capsys):
    file = workdir / "checkpoints/8/config/metadata"
    assert '"num_steps": 8' in file.read_text()
    file.write_text(file.read_text().replace('"num_steps": 8', '"num_steps": 9'))
    assert stored_config(workdir) == to_json(CONFIG)
    assert averaged(workdir)[0] == 6
    assert "the digest of its configuration differs" in capsys.readouterr().err


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("part", ["params", "ema_params", "opt_state"])
def test_a_checkpoint_that_is_not_finite_is_kept_and_the_one_before_is_taken(tmp_path, part, value, capsys):
    save(tmp_path, [6])
    state = state_at(8)
    broken = jax.tree.map(lambda x: x.at[..., 0].set(value) if x.ndim else x, getattr(state, part))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state.replace(**{part: broken}), to_json(CONFIG))
    assert same(restore(tmp_path), state_at(6))
    assert saved_steps(tmp_path / "checkpoints") == [6]
    assert saved_steps(tmp_path / "damaged_checkpoints") == [8]
    assert f"{part}/" in (message := capsys.readouterr().err)
    assert "is not finite" in message


def test_leaves_that_change_places_are_found(saved):
    tree = {"a": jnp.zeros(3), "b": jnp.ones(3)}
    with pytest.raises(DamagedError, match="the digest of a differs"):
        integrity.check({"a": tree["b"], "b": tree["a"]}, integrity.digests(tree))


def test_checkpoints_under_each_others_names_are_found(workdir, capsys):
    folder = workdir / "checkpoints"
    (folder / "8").rename(folder / "9")
    step, params = averaged(workdir)
    assert same(params, state_at(step).ema_params)
    assert step == 6
    assert "checkpoints/9 is damaged (the digest of step differs)" in capsys.readouterr().err
    assert restore(workdir).step == 6


def test_memory_that_does_not_suffice_is_one_line(saved):
    def read(step):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 3 bytes")

    with pytest.raises(UserError, match=r"^cannot read checkpoint .*8 \(out of memory .*\); it is left unchanged: fix"):
        restoring.newest_whole(saved / "checkpoints", read)


def test_a_record_without_digests_is_that_of_an_earlier_version():
    record = Record(to_json(CONFIG), {"a": "float32[] 0"})
    assert integrity.from_json(json.loads(json.dumps(integrity.to_json(record)))) == record
    assert integrity.from_json(to_json(CONFIG)) == Record(to_json(CONFIG), None)
    for damaged in ({}, [], {"config": {}}, {**integrity.to_json(record), "digests": {}}, {"task": "denoise"}):
        with pytest.raises(DamagedError):
            integrity.from_json(damaged)


def test_another_network_is_refused_and_not_taken_for_damage(workdir):
    wider = jax.tree.map(lambda x: jax.ShapeDtypeStruct((*x.shape, 2), x.dtype, sharding=x.sharding), target().params)
    with pytest.raises(
        UserError, match=r"checkpoints/8 does not fit: 2 of our .*params/layer/bias.* made by another version"
    ):
        restore_params(workdir, lambda config: wider, name="params")
    renamed = target().replace(params={"other": target().params["layer"]})
    with (
        Checkpoints(workdir) as checkpoints,
        pytest.raises(UserError, match=r"does not fit: .* was made by another version"),
    ):
        checkpoints.restore(renamed)
    assert saved_steps(workdir / "checkpoints") == [8, 6]


@pytest.fixture
def as_nobody(saved):
    """A copy of the run in a folder that all may enter, for a user who is not root."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    workdir, user = shutil.copytree(saved, folder / "run"), os.geteuid()
    if user == 0:
        os.seteuid(12345)
    yield workdir
    os.seteuid(user)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.parametrize("part", ["state", "config", "state/_METADATA", "", ".."])
def test_what_may_not_be_read_is_named_and_neither_moved_nor_skipped(as_nobody, part):
    locked = as_nobody / "checkpoints/8" / part
    user = os.geteuid()
    os.seteuid(os.getuid())
    locked.chmod(0)
    os.seteuid(user)
    with pytest.raises(UserError, match=r"^cannot .*checkpoints.*Permission denied") as error:
        averaged(as_nobody)
    assert "\n" not in str(error.value)
    os.seteuid(os.getuid())
    assert {path.name for path in (as_nobody / "checkpoints").iterdir()} == {"6", "8"}
    os.seteuid(user)


def chained(error, cause):
    """An exception with its cause."""
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (OSError(errno.ESTALE, "Stale file handle"), "Stale file handle"),
        (ValueError('UNKNOWN: Error reading "x" [OS error 116: ESTALE Stale file handle]'), "ESTALE"),
        (chained(ValueError("wrapped"), OSError(errno.ENOMEM, "Cannot allocate memory")), "Cannot allocate memory"),
        (TimeoutError("timed out"), "timed out"),
        (ConnectionResetError("peer"), "peer"),
        (OSError("no number"), "no number"),
        (ValueError("UNAVAILABLE: Error reading local file"), "UNAVAILABLE"),
        (MemoryError("too much"), r"out of memory \(too much\)"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 3 bytes"), "out of memory"),
        (RuntimeError("Unable to initialize backend 'cuda': none"), "Unable to initialize backend 'cuda'"),
        (ImportError("No module named 'zstd'"), "No module named 'zstd'"),
    ],
)
def test_what_is_not_the_checkpoints_fault_is_no_damage(saved, error, expected):
    assert integrity.re.search(expected, integrity.obstacle(saved / "checkpoints/8", error))


@pytest.mark.parametrize(
    "error",
    [
        DamagedError("the digest of a differs"),
        FileNotFoundError(errno.ENOENT, "No such file or directory"),
        ValueError('NOT_FOUND: Error opening "zarr" driver [OS error 2: ENOENT No such file or directory]'),
        json.JSONDecodeError("Expecting value", "", 0),
    ],
)
def test_what_is_missing_or_makes_no_sense_is_damage(saved, error):
    assert integrity.obstacle(saved / "checkpoints/8", error) is None


def test_a_checkpoint_deleted_while_it_is_opened_is_passed_over_without_a_word(workdir, monkeypatch, capsys):
    original = integrity.from_json

    def vanish(stored):
        if (workdir / "checkpoints/8").exists():
            shutil.rmtree(workdir / "checkpoints/8")
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        return original(stored)

    monkeypatch.setattr(integrity, "from_json", vanish)
    assert averaged(workdir)[0] == 6
    assert capsys.readouterr().err == ""


@pytest.fixture
def two_processes(monkeypatch):
    """Makes `newest_whole` believe that this process, the first, has a companion."""
    played = SimpleNamespace(process_count=lambda: 2, process_index=lambda: 0, errors=jax.errors)
    monkeypatch.setattr(restoring, "jax", SimpleNamespace(**{**vars(jax), **vars(played)}))


def test_the_first_of_several_checks_a_checkpoint_part_by_part(workdir, two_processes, monkeypatch, capsys):
    """At most as many bytes at once as asked for, or one leaf, and every leaf once."""
    parts, original = [], integrity.check
    monkeypatch.setattr(restoring, "_PART", 9000)
    monkeypatch.setattr(integrity, "check", lambda tree, known: [parts.append(tree), original(tree, known)])
    assert restoring.newest_whole(workdir / "checkpoints", lambda step: step) == (8, 8)
    sizes = [[leaf.nbytes for leaf in jax.tree.leaves(part)] for part in parts]
    assert max(map(sum, sizes)) <= 9000  # each has at most one of the four kernels
    assert (
        len(sizes) == 6
    )  # one for each kernel, one for what is behind them, and the step that the record is checked by
    named = [name for part in parts for name in integrity.digests(part)]
    assert sorted(named) == sorted(["step", *integrity.digests(state_at(8))])
    values(workdir).write_bytes(b"")
    assert restoring.newest_whole(workdir / "checkpoints", lambda step: step) == (6, 6)
    assert "checkpoints/8 is damaged (" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            MemoryError("too much"),
            r"^cannot read .*/8 \(out of memory \(too much\)\); it is left unchanged: fix the c",
        ),
        (OSError(errno.EACCES, "Denied"), r"^cannot read checkpoint .*/8 \(Denied\); it is left unchanged: fix the c"),
        (
            DamagedError("the digest differs"),
            r"^process 0 cannot read .*/8, .*could read \(the digest differs\); it is",
        ),
        (UserError("of another version"), "^of another version$"),
    ],
)
def test_what_one_of_several_cannot_read_is_one_line_and_moves_nothing(workdir, two_processes, error, message):
    def read(step):
        raise error

    with pytest.raises(UserError, match=message):
        restoring.newest_whole(workdir / "checkpoints", read, check=lambda step: None)
    assert saved_steps(workdir / "checkpoints") == [8, 6]
