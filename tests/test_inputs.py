"""What the train step is fed: the same images in the same order, read as needed or kept on the devices."""

import itertools
import multiprocessing
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from support.tiny import random_state, same, tiny_config

from ddpm_jax import factory
from ddpm_jax.data import shared_memory
from ddpm_jax.errors import TransientError, UserError
from ddpm_jax.jobs import train
from ddpm_jax.runtime.devices import device_mesh
from ddpm_jax.training import inputs, log
from ddpm_jax.training.step import gathering, train_step


def inputs_of(config, source, start_step=0):
    """The batches of a source as the configuration asks for them."""
    return train._inputs(config, source, device_mesh(), start_step=start_step)


def first_batches(count, *, on_device, start_step=0):
    config = tiny_config(data__on_device=on_device, train__batch_size=16, seed=3)
    with inputs_of(config, factory.source(config), start_step) as stream:
        return list(itertools.islice(stream, count))


@pytest.mark.parametrize("start_step", [0, 79])
def test_indices_into_the_data_set_name_the_images_that_are_read(start_step):
    """From the start, and over the end of an epoch of 81 batches."""
    read = first_batches(4, on_device=False, start_step=start_step)
    pick = gathering(lambda state, batch: (state, batch))
    for batch, named in zip(read, first_batches(4, on_device=True, start_step=start_step), strict=True):
        assert same(pick(None, named)[1], batch)


def test_the_data_set_is_whole_on_each_device_and_the_indices_are_cut():
    ((data, index),) = first_batches(1, on_device=True)
    assert data["image"].shape == (1297, 8, 8, 1)
    assert data["image"].dtype == np.uint8
    assert data["image"].sharding.is_fully_replicated
    assert len(index.addressable_shards) == len(jax.devices())
    assert index.addressable_shards[0].data.shape == (16 // len(jax.devices()),)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
def test_a_run_may_change_between_the_two(tmp_path):
    """Of the same images two programs, which round differently."""
    options = {"data__random_flip": True, "train__num_steps": 4}
    train.train(tiny_config(**options, data__on_device=False), tmp_path / "read")
    train.train(tiny_config(**{**options, "train__num_steps": 2}, data__on_device=False), tmp_path / "both")
    train.train(tiny_config(**options, data__on_device=True), tmp_path / "both")
    read, both = ([line["loss"] for line in log.read_log(tmp_path / name)] for name in ("read", "both"))
    np.testing.assert_allclose(both, read, rtol=1e-5)


def test_a_data_set_too_large_for_the_devices_is_refused_before_it_is_read(monkeypatch):
    monkeypatch.setattr(inputs, "_MOST_BYTES", 1000)
    with pytest.raises(UserError, match=r"1,297 images take .*, with config.data.on_device=False"):
        first_batches(1, on_device=True)


class Repeated:
    """A source of one example, sixteen times."""

    num_classes, class_names = 0, ()

    def __init__(self, example):
        self._example = example

    def __len__(self):
        return 16

    def __getitem__(self, index):
        return self._example


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({"image": np.zeros((8, 8, 1), np.float32), "label": np.int32(0)}, r"its image is float32 \[8, 8, 1\]"),
        ({"image": np.zeros((8, 8, 1), np.uint8)}, "and is a dict of image"),
    ],
)
@pytest.mark.parametrize("on_device", [False, True])
def test_examples_of_another_form_are_refused_however_they_are_fed(example, message, on_device):
    config = tiny_config(data__on_device=on_device, train__batch_size=16)
    step = partial(train_step, factory.train_spec(config, factory.network(config), num_images=16))
    take = gathering(step) if on_device else step
    with (
        pytest.raises(UserError, match=message),
        inputs_of(config, factory.fitted(config, Repeated(example))) as stream,
    ):
        jax.eval_shape(take, random_state(config), next(stream))


@pytest.mark.parametrize("killed", [False, True])
def test_no_shared_memory_is_left_behind_however_a_run_with_workers_ends(monkeypatch, killed):
    """The exception refers to the last batches, and a killed worker to what it was about to hand over."""
    prefix, release, held, left = shared_memory.new_prefix(), shared_memory.release, [], []
    there = lambda: list(Path("/dev/shm").glob(f"{prefix}*"))
    monkeypatch.setattr(shared_memory, "new_prefix", lambda: prefix)
    monkeypatch.setattr(shared_memory, "release", lambda of: left.extend(there()) or release(of))
    config, before = tiny_config(data__on_device=False, data__num_workers=2), multiprocessing.active_children()

    def body():
        with inputs_of(config, factory.source(config)) as stream:
            held.extend(next(stream) for _ in range(3))
            while len(there()) < 4:  # of the next batches, two arrays each
                pass
            if not killed:
                raise ValueError("an error of a step")
            next(child for child in multiprocessing.active_children() if child not in before).kill()
            held.extend(stream)

    error, message = (TransientError, "a process that reads images ended") if killed else (ValueError, "of a step")
    with pytest.raises(error, match=message):
        body()
    assert np.isfinite(np.asarray(held[-1]["image"])).all()  # its memory is there
    assert bool(left) == killed
    assert not there()
