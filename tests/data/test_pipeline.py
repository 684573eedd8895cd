import contextlib
import itertools
import multiprocessing
import os
import signal

import numpy as np
import pytest

from ddpm_jax.data.digits import Digits
from ddpm_jax.data.pipeline import batch_indices, batches
from ddpm_jax.errors import UserError


class Numbered:
    """A source whose image i has i for its pixel and its label."""

    num_classes = 0
    class_names = ()

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, i):
        return {"image": np.full((2, 2, 1), i, np.uint8), "label": np.int32(i)}


def take(count, source, **options):
    """The first `count` batches, closed behind."""
    with contextlib.closing(batches(source, **options)) as iterator:
        return list(itertools.islice(iterator, count))


def labels(taken):
    return np.stack([batch["label"] for batch in taken])


def test_batches_are_stacked_examples():
    (batch,) = take(1, Numbered(10), batch_size=4, seed=0)
    assert batch["image"].dtype == np.uint8
    assert batch["label"].dtype == np.int32
    assert batch["image"].shape == (4, 2, 2, 1)
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["label"])


def test_each_image_comes_once_an_epoch_in_an_order_of_its_own():
    order = labels(take(60, Numbered(20), batch_size=4, seed=3)).reshape(12, 20)
    np.testing.assert_array_equal(np.sort(order, 1), np.tile(np.arange(20), (12, 1)))
    assert len({tuple(epoch) for epoch in order}) == 12


def test_seed_decides_the_order():
    one, same, other = (labels(take(5, Numbered(20), batch_size=4, seed=seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


@pytest.mark.parametrize("start", [1, 4, 5, 6, 11])
def test_resumed_stream_is_the_uninterrupted_one(start):
    # 10 images in batches of 4: steps 2 and 7 lie across the ends of epochs.
    whole = take(15, Numbered(10), batch_size=4, seed=5)
    rest = take(15 - start, Numbered(10), batch_size=4, seed=5, start_step=start)
    for expected, batch in zip(whole[start:], rest, strict=True):
        np.testing.assert_array_equal(batch["label"], expected["label"])
        np.testing.assert_array_equal(batch["image"], expected["image"])


@pytest.mark.parametrize("process_count", [2, 4])
def test_hosts_share_the_batch_of_one_host(process_count):
    options = {"batch_size": 8, "seed": 7, "start_step": 3}
    whole = labels(take(6, Numbered(10), **options))
    for rows in np.array_split(np.random.default_rng(0).permutation(8), process_count):  # of its devices, in any order
        share = take(6, Numbered(10), **options, rows=np.sort(rows))
        np.testing.assert_array_equal(labels(share), whole[:, np.sort(rows)])


def test_batch_indices_are_those_of_the_batches():
    taken = labels(take(6, Numbered(10), batch_size=4, seed=9, start_step=2))
    indices = np.stack([batch_indices(10, batch_size=4, seed=9, step=step) for step in range(2, 8)])
    np.testing.assert_array_equal(indices, taken)


def test_batch_may_exceed_the_data_set():
    (batch,) = take(1, Numbered(3), batch_size=12, seed=0)
    np.testing.assert_array_equal(np.sort(batch["label"].reshape(4, 3), 1), np.tile(np.arange(3), (4, 1)))


def test_far_step_is_reached_without_reading_those_before_it():
    class Counted(Numbered):
        reads = 0

        def __getitem__(self, i):
            Counted.reads += 1
            return super().__getitem__(i)

    (batch,) = take(1, Counted(50), batch_size=128, seed=0, start_step=800_000)
    assert Counted.reads <= 128 * 64  # some are read ahead
    np.testing.assert_array_equal(batch["label"], batch_indices(50, batch_size=128, seed=0, step=800_000))


def test_worker_process_gives_the_same_batches():
    options = {"batch_size": 16, "seed": 1, "start_step": 100}  # 1,297 digits: an epoch ends within step 162
    for alone, worked in zip(
        take(70, Digits("train"), **options), take(70, Digits("train"), num_workers=1, **options), strict=True
    ):
        np.testing.assert_array_equal(worked["image"], alone["image"])
        np.testing.assert_array_equal(worked["label"], alone["label"])
    assert not multiprocessing.active_children()


def test_mistake_of_the_user_passes_through_unchanged():
    class Broken(Numbered):
        def __getitem__(self, i):
            raise UserError(f"cannot use image {i}")

    with pytest.raises(UserError) as caught:
        take(1, Broken(1), batch_size=1, seed=0)
    assert str(caught.value) == "cannot use image 0"


def test_impossible_requests_are_refused_before_the_first_batch():
    with pytest.raises(UserError, match="no images"):
        batches(Numbered(0), batch_size=1, seed=0)
    with pytest.raises(UserError, match="the batch size must be positive, got 0"):
        batches(Numbered(9), batch_size=0, seed=0)
    with pytest.raises(UserError, match="seed"):
        batches(Numbered(9), batch_size=1, seed=-1)


class Pid:
    """A source whose label is the number of the process that reads it."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return {"image": np.zeros((2, 2, 1), np.uint8), "label": os.getpid()}


@pytest.mark.slow
def test_workers_take_no_signal_that_ends_a_run():
    """Slurm sends SIGTERM to every process of a step, and the one that trains still needs images to end in order."""
    with contextlib.closing(batches(Pid(), batch_size=1, seed=0, num_workers=1)) as stream:
        (worker,) = next(stream)["label"]
        assert worker != os.getpid()
        os.kill(int(worker), signal.SIGTERM)
        assert {int(next(stream)["label"][0]) for _ in range(20)} == {int(worker)}
