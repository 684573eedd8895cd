"""A run that was copied from a bucket to a disk becomes a run on a disk, and is never mixed with another one."""

import json

import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.training.folder_store import Folders


@pytest.fixture
def copied(tmp_path):
    """The checkpoints folder of a run of steps 2 and 4, as it was copied from a bucket."""
    folder = tmp_path / "run" / "checkpoints"
    for place in ("t1/2", "t2/4"):
        put(folder, place, "the bucket's")
    (folder / "manifest.json").write_text(json.dumps({"checkpoints": {"2": "t1/2", "4": "t2/4"}}))
    return folder


def put(folder, place, content):
    (folder / place).mkdir(parents=True)
    (folder / place / "file").write_text(content)


def content(folder):
    return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("file")}


def open_and_close(folder):
    store = Folders(folder)
    try:
        store.open()
    finally:
        store.close()


def test_it_gets_the_form_of_a_run_on_a_disk(copied):
    open_and_close(copied)
    assert content(copied) == {"2/file": "the bucket's", "4/file": "the bucket's"}
    assert not (copied / "manifest.json").exists()


def test_it_gets_there_after_an_interruption_too(copied):
    (copied / "t1/2").rename(copied / "2")
    open_and_close(copied)
    assert content(copied) == {"2/file": "the bucket's", "4/file": "the bucket's"}


@pytest.mark.parametrize("step", [3, 4, 9])
def test_it_is_not_mixed_with_the_run_that_was_there(copied, step):
    put(copied, str(step), "the disk's")
    before = content(copied)
    for _ in range(2):
        with pytest.raises(UserError, match=rf"copied over the run in .*run, .* step {step}:"):
            open_and_close(copied)
        assert content(copied) == before
    (copied / "manifest.json").unlink()  # as the message says
    open_and_close(copied)


def test_a_checkpoint_that_the_bucket_had_from_a_disk_is_its_own(copied):
    put(copied, "1", "the bucket's")
    (copied / "manifest.json").write_text(json.dumps({"checkpoints": {"1": "1", "2": "t1/2", "4": "t2/4"}}))
    open_and_close(copied)
    assert set(content(copied)) == {"1/file", "2/file", "4/file"}
