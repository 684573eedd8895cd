"""Copies of the images of a folder in a bucket, on the disk."""

import os
from pathlib import Path

import pytest

from ddpm_jax.data.bucket_files import BucketFiles
from ddpm_jax.runtime import paths, storage


@pytest.fixture
def folder(bucket, request):
    """A folder in the bucket with one file."""
    folder = paths.any_path(f"{bucket}/{request.node.name}")
    storage.write_bytes(folder / "0/a.bmp", b"old!")
    return folder


def test_a_file_that_is_replaced_by_one_of_equal_size_is_read_anew(folder, tmp_path):
    before = BucketFiles(folder, limit=1000, cache=tmp_path)
    assert before.sizes == {"0/a.bmp": 4}
    assert before.read("0/a.bmp") == b"old!"
    assert storage.files_below(folder) == storage.files_below(folder / "0/a.bmp") == [(folder / "0/a.bmp", 4)]
    storage.write_bytes(folder / "0/a.bmp", b"new!")
    assert BucketFiles(folder, limit=1000, cache=tmp_path).read("0/a.bmp") == b"new!"
    assert before.read("0/a.bmp") == b"old!"  # a run that has listed the folder goes on with the copy that it has


def test_a_copy_that_another_process_removes_ends_no_cache(folder, tmp_path, monkeypatch):
    files, replace = BucketFiles(folder, limit=1000, cache=tmp_path), os.replace

    def removed(source, target):
        Path(source).unlink()
        replace(source, target)

    with monkeypatch.context() as another:
        another.setattr(os, "replace", removed)
        assert files.read("0/a.bmp") == b"old!"
    assert list((tmp_path / "images").iterdir()) == []
    assert files.read("0/a.bmp") == b"old!"
    assert len(list((tmp_path / "images").iterdir())) == 1
