"""Samples of a run: image i is the same however it is drawn, and files are whole."""

import jax
import numpy as np
import pytest
from PIL import Image
from tiny import tiny_config

from ddpm_jax import sampling, training
from ddpm_jax.chain import draw
from ddpm_jax.errors import UserError
from ddpm_jax.images import grid
from ddpm_jax.parallel import device_mesh
from ddpm_jax.sampling import Run, sample_run, sample_trajectory


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run of a few steps, far from good but not all noise."""
    path = tmp_path_factory.mktemp("sampled") / "run"
    training.train(tiny_config(train__num_steps=6, optim__ema_decay=0.5), path)
    return path


@pytest.fixture(scope="module")
def images(workdir):
    """Ten images of seed 0, drawn in one batch."""
    run = Run(workdir)
    return draw(run.chain(), run.params, seed=0, indices=np.arange(10), batch_size=10)


def difference(left, right):
    """Largest difference in 8-bit levels."""
    return int(np.max(np.abs(left.astype(int) - right.astype(int))))


@pytest.mark.parametrize(("batch_size", "devices"), [(3, 8), (16, 8), (4, 1)])
def test_an_image_depends_on_the_seed_and_its_index_alone(workdir, images, monkeypatch, batch_size, devices):
    monkeypatch.setattr(sampling, "device_mesh", lambda: device_mesh(jax.devices()[:devices]))
    run = Run(workdir)
    indices = np.array([7, 2, 9, 0])
    drawn = draw(run.chain(), run.params, seed=0, indices=indices, batch_size=batch_size)
    assert difference(drawn, images[indices]) <= 1  # another compiled program rounds differently


def test_seeds_parameters_and_lengths_give_other_images(workdir, images):
    run, raw = Run(workdir), Run(workdir, params="raw")
    indices, size = np.arange(4), {"indices": np.arange(4), "batch_size": 4}
    assert difference(draw(run.chain(), run.params, seed=1, **size), images[indices]) > 50
    assert difference(draw(raw.chain(), raw.params, seed=0, **size), images[indices]) > 0
    assert run.chain(5).num_moves == 5
    assert difference(draw(run.chain(5), run.params, seed=0, **size), images[indices]) > 1


def test_a_grid_and_an_array_hold_the_images(workdir, images, tmp_path):
    run = Run(workdir)
    sample_run(run, tmp_path / "grid.png", num_images=10, seed=0, batch_size=10)
    sample_run(run, tmp_path / "all.npz", num_images=10, seed=0, batch_size=10)
    with np.load(tmp_path / "all.npz") as stored:
        assert stored["arr_0"].dtype == np.uint8
        assert np.array_equal(stored["arr_0"], images)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "grid.png")), grid(images)[..., 0])


def test_a_folder_half_done_is_continued(workdir, images, tmp_path):
    run, folder = Run(workdir), tmp_path / "folder"
    sample_run(run, folder, num_images=4, seed=0, batch_size=4)
    (folder / "000001.png").unlink()
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.png")}
    sample_run(run, folder, num_images=6, seed=0, batch_size=4)
    after = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.png")}
    assert sorted(after) == [f"{i:06d}.png" for i in range(6)]
    assert all(after[name] == time for name, time in before.items())
    for i in range(6):
        assert difference(np.asarray(Image.open(folder / f"{i:06d}.png"))[..., None], images[i]) <= 1


def test_a_folder_of_other_samples_or_files_is_refused(workdir, tmp_path):
    run = Run(workdir)
    sample_run(run, tmp_path / "a", num_images=1, seed=0, batch_size=1)
    with pytest.raises(UserError, match="choose another folder"):
        sample_run(run, tmp_path / "a", num_images=2, seed=1, batch_size=1)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "letter.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        sample_run(run, tmp_path / "b", num_images=1, seed=0, batch_size=1)
    with pytest.raises(UserError, match=r"end it with .png"):
        sample_run(run, tmp_path / "c.jpg", num_images=1, seed=0, batch_size=1)


def test_a_trajectory_ends_at_the_images(workdir, images, tmp_path):
    run = Run(workdir)
    frames = run.chain()(run.params, jax.random.key(0), indices=np.arange(4), num_frames=10)
    assert len(frames) == 11
    assert difference(np.round((frames[-1].clip(-1, 1) + 1) * 127.5), images[:4]) <= 1
    sample_trajectory(run, tmp_path / "chain.gif", num_images=4, seed=0, num_frames=10)
    with Image.open(tmp_path / "chain.gif") as picture:
        assert picture.n_frames == 11


def test_frames_stand_at_the_times_of_the_chain(workdir):
    chain = Run(workdir).chain()
    np.testing.assert_array_equal(chain.frame_times(11), np.arange(20, -1, -2))
    np.testing.assert_array_equal(chain.frame_times(21), np.arange(20, -1, -1))


def test_sampling_before_there_is_anything_to_sample_from_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"there is no run in .*; train one with"):
        Run(tmp_path / "nothing")
    with pytest.raises(UserError, match="has no checkpoint yet"):
        Run(tmp_path)


def test_a_damaged_checkpoint_is_passed_over_by_name(workdir, tmp_path, capsys):
    import shutil

    from ddpm_jax.checkpoint import saved_steps

    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    newest, before = saved_steps(copy / "checkpoints")[:2]
    for path in (copy / "checkpoints" / str(newest) / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    assert Run(copy).step == before
    printed = capsys.readouterr()
    assert f"checkpoints/{newest}" in printed.out + printed.err
    state = training.train(tiny_config(train__num_steps=6, optim__ema_decay=0.5), copy)
    assert int(state.step) == 6
    assert (copy / "damaged_checkpoints" / str(newest)).is_dir()
    assert Run(copy).step == newest
    for step in saved_steps(copy / "checkpoints"):
        shutil.rmtree(copy / "checkpoints" / str(step) / "state")
    with pytest.raises(UserError, match="can be read"):
        Run(copy)
