"""The checkpoints of a run in a bucket survive what happens to its manifest, to its listing and to its processes."""

import json
import re
from functools import partial

import pytest
from support.tiny import random_state, same, tiny_config

from ddpm_jax.config import to_json
from ddpm_jax.errors import BusyError, UserError
from ddpm_jax.jobs.status.reading import observe
from ddpm_jax.jobs.unused import removed_if_unused
from ddpm_jax.runs.run import Run
from ddpm_jax.runtime import conditional, paths, storage
from ddpm_jax.runtime import lease as lease_module
from ddpm_jax.runtime.lease import LostError
from ddpm_jax.training.bucket_store import Bucket
from ddpm_jax.training.checkpoint import Checkpoints
from ddpm_jax.training.folder_store import Folders
from ddpm_jax.training.heartbeat import status_file
from ddpm_jax.training.restoring import newest_checkpoint, saved_steps, stored_config
from ddpm_jax.training.stores import claim

CONFIG = tiny_config(diffusion__num_timesteps=4)


@pytest.fixture
def folder(bucket, request):
    """The checkpoints folder of a run of its own in the bucket."""
    name = re.sub(r"\W", "-", request.node.name)
    return paths.any_path(f"{bucket}/{name}/run/checkpoints")


@pytest.fixture
def opened():
    """Function that opens a store of a folder, which the end of the test closes."""
    stores = []

    def open_bucket(folder, *, keep=lambda steps: steps, of=None):
        stores.append(Bucket(folder, keep, of=of))
        stores[-1].open()
        return stores[-1]

    yield open_bucket
    for store in stores:
        store.close()


def publish(store, *steps):
    """Lets the store publish checkpoints of one file."""
    for step in steps:
        store.begin()
        storage.write_bytes(store.root / str(step) / "file", b"")
        store.publish(step)


def stored(folder):
    return json.loads(storage.read_bytes(folder / "manifest.json"))


def places(folder):
    """The checkpoints that have files, listed or not."""
    below = [str(path.relative_to(folder)) for path, _ in storage.files_below(folder)]
    return [name.removesuffix("/file") for name in below if name != "manifest.json"]


def test_a_run_whose_manifest_is_missing_is_refused_and_loses_nothing(folder, opened):
    """Twice: the first refusal leaves no manifest behind that would let the second start remove the checkpoints.

    Those who read the run say the same; a manifest that lists nothing is as good as none.
    """
    first = opened(folder)
    publish(first, 2, 4)
    first.close()
    manifest = storage.read_bytes(folder / "manifest.json")
    storage.remove(folder / "manifest.json")
    said = r"/checkpoints has checkpoints, but no manifest\.json that lists them: restore it from a copy or an olde"
    for _ in range(2):
        for opening in (Checkpoints, Run, stored_config, newest_checkpoint):
            with pytest.raises(UserError, match=said):
                opening(folder.parent)
    storage.write_bytes(status_file(folder.parent), b'{"state": "finished"}')
    assert re.search(said, *observe(folder.parent, now=0).notes)
    storage.write_bytes(folder / "manifest.json", b"{}")
    with pytest.raises(UserError, match=said):
        opened(folder)
    assert places(folder) == ["t1/2", "t1/4"]
    storage.write_bytes(folder / "manifest.json", manifest)
    assert opened(folder).term == 2
    assert saved_steps(folder) == [4, 2]


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b'{"checkpoints": 3}', b'{"checkpoints": {"2": "../x"}}'],
    ids=["cut off", "a list", "a number", "elsewhere"],
)
def test_a_run_whose_manifest_is_damaged_is_refused_and_loses_nothing(folder, content):
    storage.write_bytes(folder / "t1/2/file", b"")
    storage.write_bytes(folder / "manifest.json", content)
    for read in (partial(Checkpoints, folder.parent), partial(saved_steps, folder)):
        with pytest.raises(
            UserError, match=r"is damaged.*restore it from a copy or an older version of the object, or "
        ):
            read()
    assert places(folder) == ["t1/2"]
    assert storage.read_bytes(folder / "manifest.json") == content


def test_an_older_version_of_the_manifest_is_refused_and_loses_nothing(folder, opened):
    """A start writes its term into the manifest before anything else, so a folder of a later term is no rubbish."""
    publish(first := opened(folder), 2)
    first.close()
    manifest = storage.read_bytes(folder / "manifest.json")
    for step in (4, 6):
        publish(store := opened(folder), step)
        store.close()
    newest = storage.read_bytes(folder / "manifest.json")
    storage.write_bytes(folder / "manifest.json", manifest)
    for _ in range(2):
        with pytest.raises(UserError, match=r"is older than the checkpoints beside it, of the start t3: restore the "):
            opened(folder)
    assert places(folder) == ["t1/2", "t2/4", "t3/6"]
    storage.write_bytes(folder / "manifest.json", newest)
    assert opened(folder).term == 4
    assert saved_steps(folder) == [6, 4, 2]


def test_checkpoints_that_were_copied_over_a_run_are_not_passed_over_in_silence(folder, opened):
    publish(first := opened(folder), 2, 4)
    first.close()
    storage.write_bytes(folder / "8/file", b"")
    with pytest.raises(UserError, match=r"a checkpoint of step 8 was copied over the run in .*that of step 4: copy to"):
        opened(folder)
    assert places(folder) == ["8", "t1/2", "t1/4"]
    storage.remove(folder / "manifest.json")  # as the message says
    publish(opened(folder), 10)
    assert stored(folder)["checkpoints"] == {"8": "8", "10": "t1/10"}


def test_a_run_that_failed_in_its_first_save_keeps_its_manifest(folder, opened):
    """Without it, what the save left behind would be taken for checkpoints that nothing lists."""
    first = opened(folder)
    first.begin()
    storage.write_bytes(first.root / "2/file", b"")
    first.close()
    assert opened(folder).term == 2
    assert places(folder) == []


def test_a_run_that_was_copied_from_a_disk_goes_on(folder, opened):
    storage.write_bytes(folder / "2/file", b"")
    store = opened(folder)
    publish(store, 4)
    assert stored(folder)["checkpoints"] == {"2": "2", "4": "t1/4"}


def test_a_holder_that_was_paused_in_its_sweep_leaves_the_checkpoints_of_its_successor(folder, opened, monkeypatch):
    publish(first := opened(folder), 2)
    first.close()
    storage.write_bytes(folder / "t1/3/file", b"")  # half written
    sweep = Bucket._sweep

    def paused(store):
        if store.term == 2:
            publish(opened(folder, of=1), 4)
        sweep(store)

    monkeypatch.setattr(Bucket, "_sweep", paused)
    opened(folder)
    assert places(folder) == ["t1/2", "t3/4"]
    assert saved_steps(folder) == [4, 2]


def test_a_listing_that_lags_hides_no_checkpoint_and_brings_none_back(folder, opened, monkeypatch):
    publish(opened(folder), 2)
    monkeypatch.setattr(storage, "names", lambda folder: ["7"])
    assert saved_steps(folder) == [2]


def resent(monkeypatch):
    """Lets the library send the next write again although it was done, so that it fails."""
    write_if, sent = conditional.write_if, []

    def twice(*args, **options):
        result = write_if(*args, **options)
        if not sent:
            sent.append(result)
            return write_if(*args, **options)
        return result

    monkeypatch.setattr(lease_module, "write_if", twice)


def test_a_write_that_is_sent_twice_removes_what_is_not_kept(folder, opened, monkeypatch):
    store = opened(folder, keep=lambda steps: steps[-1:])
    publish(store, 2)
    resent(monkeypatch)
    publish(store, 4)
    assert places(folder) == ["t1/4"]


def test_a_write_that_is_sent_twice_names_a_damaged_checkpoint_once(folder, opened, monkeypatch):
    store = opened(folder)
    publish(store, 2)
    resent(monkeypatch)
    store.set_aside([2])
    assert stored(folder)["damaged"] == ["t1/2"]


def test_a_start_that_fails_lets_the_next_one_begin_at_once(folder, monkeypatch):
    """The bucket fails after the lease is taken, and Orbax does; a lease that is held would be found renewed."""

    def fail(*args, **options):
        raise OSError(110, "timed out")

    with monkeypatch.context() as patched:
        patched.setattr(Bucket, "_sweep", fail)
        with pytest.raises(UserError, match="timed out"):
            Checkpoints(folder.parent)
    with monkeypatch.context() as patched:
        patched.setattr("orbax.checkpoint.CheckpointManager", fail)
        with pytest.raises(UserError, match="timed out"):
            Checkpoints(folder.parent)
    monkeypatch.setattr(lease_module, "_has_ended", lambda holder: False)
    monkeypatch.setattr(lease_module.time, "sleep", lambda seconds: pytest.fail("waits for a holder"))
    Checkpoints(folder.parent).__exit__(None, None, None)


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(
    "leave", ["removed", *(pytest.param(how, marks=pytest.mark.slow) for how in ("set aside", "not removed"))]
)
def test_a_step_of_this_start_can_be_saved_again(folder, leave, monkeypatch):
    """After a roll-back in the same process: the checkpoint was damaged, or it was of a later step."""
    two, four = (random_state(CONFIG, step=step) for step in (2, 4))
    with Checkpoints(folder.parent) as checkpoints:
        for state in (two, four):
            checkpoints.save(state, to_json(CONFIG))
        checkpoints.wait()
        if leave == "set aside":
            for path, _ in storage.files_below(folder / "t1/4/state"):
                storage.remove(path)
            assert checkpoints.restore(two).step == 2
        else:
            if leave == "not removed":
                monkeypatch.setattr(storage, "remove_tree", lambda folder: None)
            checkpoints.remove_after(2)
        assert saved_steps(folder) == [2]
        again = four.replace(ema_params=four.params)
        checkpoints.save(again, to_json(CONFIG))
        checkpoints.wait()
        assert checkpoints.term == 2
    assert stored(folder)["checkpoints"] == {"2": "t1/2", "4": "t2/4"}
    assert same(Run(folder.parent).params, four.params)
    with Checkpoints(folder.parent) as checkpoints:
        assert checkpoints.term == 3


def test_steps_that_cannot_be_removed_are_an_error(folder, opened, monkeypatch):
    publish(opened(folder), 2, 4)

    def fail(folder):
        raise OSError(13, "denied")

    monkeypatch.setattr(storage, "remove_tree", fail)
    with pytest.raises(OSError, match="denied"):
        claim(folder, [4], of=1)
    assert saved_steps(folder) == [2]


def test_a_store_within_a_run_is_never_taken_back_by_an_earlier_start(folder, opened):
    """Its holder was paused, opens it for the first time when it wakes, or has it open already."""
    claim(folder, [], of=2)
    with pytest.raises(LostError, match="another process has taken over the run in gs://"):
        opened(folder, of=1)
    held = opened(folder, of=2)
    publish(held, 4)
    claim(folder, [], of=3)
    with pytest.raises(LostError):
        publish(held, 6)
    assert saved_steps(folder) == [4]
    publish(opened(folder, of=3), 8)
    assert saved_steps(folder) == [8, 4]
    with pytest.raises(LostError):
        claim(folder, [8], of=2)
    assert saved_steps(folder) == [8, 4]


def test_a_folder_of_a_disk_is_claimed_without_being_made(tmp_path):
    claim(tmp_path / "best/checkpoints", [], of=0)
    assert not (tmp_path / "best").exists()


def test_a_manifest_that_is_removed_in_a_run_is_no_takeover(folder, opened):
    store = opened(folder)
    storage.remove(folder / "manifest.json")
    with pytest.raises(
        LostError, match=r"^gs://.*/manifest\.json was removed while this process trained: restore it fr"
    ):
        publish(store, 2)


def test_of_two_starts_at_one_moment_the_refused_one_leaves_the_folders_of_the_other(tmp_path):
    """Both have seen that there is no folder; a third one must not find the lock free."""
    workdir = tmp_path / "run"
    first, second, third = (Folders(workdir / "checkpoints") for _ in range(3))

    def start():
        with removed_if_unused(workdir):
            first.open()
            second.open()

    with pytest.raises(BusyError, match="another process is training in "):
        start()
    with pytest.raises(BusyError, match="another process is training in "):
        third.open()
    first.close()


def test_of_two_starts_at_one_moment_the_refused_one_leaves_the_status_of_the_other(folder, opened, monkeypatch):
    monkeypatch.setattr(lease_module, "_this_process", lambda: {"host": "another", "pid": 7})
    monkeypatch.setattr(lease_module, "BEAT", 0.2)

    def start():
        with removed_if_unused(folder.parent):
            opened(folder)
            storage.write_bytes(folder.parent / "status.json", b"{}")
            opened(folder)

    with pytest.raises(BusyError, match="is training in "):
        start()
    assert storage.exists(folder.parent / "status.json")
