"""Samples of a run: image i depends on the seed and i alone, however it is drawn, and files are whole."""

import contextlib
import json

import jax
import numpy as np
import pytest
from PIL import Image
from support.tiny import random_state, save, tiny_config

from ddpm_jax import factory
from ddpm_jax.config import to_json
from ddpm_jax.diffusion.arrays import noise_like, stream
from ddpm_jax.diffusion.samplers import Sampler, SamplerState, StepInfo
from ddpm_jax.diffusion.schedules import linear
from ddpm_jax.errors import UserError
from ddpm_jax.runs import sampling
from ddpm_jax.runs.chain import Chain, CompiledChain, draw, pieces, spread_evenly
from ddpm_jax.runs.run import Run
from ddpm_jax.runs.sampling import sample_run, sample_trajectory
from ddpm_jax.runtime.devices import device_mesh
from ddpm_jax.runtime.images import tile_images, to_uint8
from ddpm_jax.training.checkpoint import Checkpoints

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def run(tmp_path_factory, quick_compilation):
    """A run whose parameters are random, so that its images depend on every one of them."""
    return Run(save(tmp_path_factory.mktemp("sampled") / "run", tiny_config(), steps=(3,)))


@pytest.fixture(scope="module")
def chain(run):
    """Its chain of all 20 moves."""
    return run.chain()


def frames_of(chain, run, num_frames):
    """The chain of eight images."""
    return chain.frames(run.params, jax.random.key(0), indices=np.arange(8), num_frames=num_frames)


@pytest.fixture(scope="module")
def images(run, chain):
    """Ten images of seed 0, drawn eight at a time."""
    return draw(chain, run.params, seed=0, indices=np.arange(10), batch_size=8)


def difference(left, right):
    """Largest difference in 8-bit levels."""
    return int(np.max(np.abs(left.astype(int) - right.astype(int))))


def pngs(folder):
    """The images of a folder in the order of their names, `[N, H, W, 1]`."""
    return np.stack([np.asarray(Image.open(path))[..., None] for path in sorted(folder.glob("*.png"))])


@pytest.mark.parametrize(("num_moves", "at_most", "lengths"), [
    (1000, 50, [50] * 20), (20, 50, [20]), (20, 8, [5] * 4), (997, 50, [50] * 19 + [47]), (7, 3, [3, 3, 1]),
    (25, 10, [5] * 5), (9, 8, [8, 1]), (104, 99, [26] * 4), (53, 99, [50, 3]), (51, 50, [50, 1]), (1, 50, [1]),
])  # fmt: skip
def test_pieces_are_of_one_length_but_perhaps_the_last(num_moves, at_most, lengths):
    moves = (np.arange(num_moves), np.arange(num_moves) ** 2)
    cut = list(pieces(moves, at_most=at_most))
    assert [len(index) for index, _ in cut] == lengths
    np.testing.assert_array_equal(np.concatenate([square for _, square in cut]), moves[1])


def test_images_differ(images):
    assert images.dtype == np.uint8
    assert len(np.unique(images.reshape(10, -1), axis=0)) == 10
    assert 10 < np.std(images) < 120


def test_an_image_does_not_depend_on_its_company(run, chain, images):
    """Bit for bit, for one compiled program."""
    for indices in ([7, 2, 9, 0], [9], [4] * 3 + [8] * 9):
        drawn = draw(chain, run.params, seed=0, indices=np.array(indices), batch_size=8)
        np.testing.assert_array_equal(drawn, images[indices])


@pytest.mark.parametrize(("batch_size", "devices"), [(1, 8), (3, 8), (16, 8), (8, 1), (3, 1)])
def test_an_image_does_not_depend_on_batch_size_or_devices(run, images, monkeypatch, batch_size, devices):
    """Within one level: another shape is another program, which rounds differently."""
    monkeypatch.setattr("ddpm_jax.runs.run.device_mesh", lambda: device_mesh(jax.devices()[:devices]))
    other = Run(run.workdir)
    assert other.mesh.size == devices
    indices = np.array([7, 2, 9, 0])
    drawn = draw(other.chain(), other.params, seed=0, indices=indices, batch_size=batch_size)
    assert difference(drawn, images[indices]) <= 1


def test_seeds_and_parameters_give_other_images(run, chain, images):
    eight = {"indices": np.arange(8), "batch_size": 8}
    assert difference(draw(chain, run.params, seed=1, **eight), images[:8]) > 20
    raw = Run(run.workdir, params="raw")
    assert difference(draw(chain, raw.params, seed=0, **eight), images[:8]) > 20


def test_both_sets_of_parameters_are_those_of_the_newest_checkpoint(tmp_path):
    config = tiny_config()
    save(tmp_path, config, steps=(1, 12))
    for name, expected in (("ema", "ema_params"), ("raw", "params")):
        opened = Run(tmp_path, params=name)
        assert opened.step == 12
        jax.tree.map(np.testing.assert_array_equal, opened.params, getattr(random_state(config, step=12), expected))


def test_the_number_of_steps_respaces_the_chain(run, images):
    short = run.chain(5)
    assert short.num_steps == 5
    np.testing.assert_array_equal(frames_of(short, run, 6).times, [20, 16, 12, 8, 4, 0])
    assert difference(draw(short, run.params, seed=0, indices=np.arange(8), batch_size=8), images[:8]) > 1


def test_frames_stand_at_the_times_of_the_chain(chain, run):
    np.testing.assert_array_equal(frames_of(chain, run, 11).times, np.arange(20, -1, -2))
    np.testing.assert_array_equal(frames_of(chain, run, 21).times, np.arange(20, -1, -1))


def test_settings_that_are_given_replace_the_runs(run, images):
    other = Run(run.workdir).configure(sampler="ddim", eta=None, variance=None, grid="uniform")
    before, after = run.config.sample, other.config.sample
    assert (after.sampler, after.grid) == ("ddim", "uniform")
    assert {key for key in before if before[key] != after[key]} == {"sampler", "grid"}
    drawn = draw(other.chain(), other.params, seed=0, indices=np.arange(8), batch_size=8)
    assert difference(drawn, images[:8]) > 1


@pytest.mark.slow
def test_drawing_gives_the_images_as_an_array(run, images):
    np.testing.assert_array_equal(run.sample(10, batch_size=8), images)
    times, frames, estimates, evaluations = run.trajectory(8, num_frames=10)
    np.testing.assert_array_equal(times, np.arange(20, -1, -2))
    np.testing.assert_array_equal(to_uint8(frames[-1]), images[:8])
    assert evaluations == 20
    for t, x, x_0 in zip(times[:-1], frames[:-1], estimates[:-1], strict=True):
        level = factory.noise_schedule(run.config).level(t)
        np.testing.assert_allclose(x_0, run.denoiser()(run.params)(x, level).x_0, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(estimates[-1], frames[-1])


def test_a_grid_an_array_and_a_folder_hold_the_same_images(run, images, tmp_path):
    ten = {"num_images": 10, "seed": 0, "batch_size": 8}
    assert sample_run(run, tmp_path / "a" / "grid.png", **ten) == tmp_path / "a" / "grid.png"
    sample_run(run, tmp_path / "a" / "all.npz", **ten)
    sample_run(run, tmp_path / "folder", **ten)
    with np.load(tmp_path / "a" / "all.npz") as stored:
        assert stored.files == ["arr_0"]
        assert (stored["arr_0"].dtype, stored["arr_0"].shape) == (np.uint8, (10, 8, 8, 1))
        np.testing.assert_array_equal(stored["arr_0"], images)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a" / "grid.png")), tile_images(images)[..., 0])
    np.testing.assert_array_equal(pngs(tmp_path / "folder"), images)
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == [
        *(f"{i:06d}.png" for i in range(10)),
        "sampling.json",
    ]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["all.npz", "grid.png"]


def test_a_folder_half_done_is_continued_with_what_is_missing(run, images, tmp_path, monkeypatch, capsys):
    """Killed between two images, files removed, empty, cut, of another size, more asked for: only these are drawn."""
    saved = []

    def save_some(path, image):
        if len(saved) == 5:
            raise KeyboardInterrupt
        saved.append(path)
        save_png(path, image)

    save_png = sampling.save_png
    monkeypatch.setattr(sampling, "save_png", save_some)
    with pytest.raises(KeyboardInterrupt):
        sample_run(run, tmp_path / "folder", num_images=8, seed=0, batch_size=8)
    saved[1].unlink()
    saved[2].write_bytes(b"")
    saved[3].write_bytes(saved[3].read_bytes()[:-20])
    Image.new("L", (9, 8)).save(saved[4])
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "folder").glob("*.png")}
    assert len(before) == 4
    del before["000002.png"], before["000003.png"], before["000004.png"]
    saved.clear()
    monkeypatch.setattr(sampling, "save_png", lambda path, image: (saved.append(path.name), save_png(path, image)))
    sample_run(run, tmp_path / "folder", num_images=10, seed=0, batch_size=8)
    assert saved == [f"{i:06d}.png" for i in (1, 2, 3, 4, 5, 6, 7, 8, 9)]
    assert capsys.readouterr().err.count("is damaged and is drawn again") == 3
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "folder").glob("*.png")}
    assert before.items() <= after.items()
    np.testing.assert_array_equal(pngs(tmp_path / "folder"), images)
    saved.clear()
    sample_run(run, tmp_path / "folder", num_images=10, seed=0)
    assert saved == []


@pytest.mark.parametrize("name", ["grid.png", "all.npz"])
def test_an_interrupted_file_is_absent(run, tmp_path, monkeypatch, name):
    def interrupt(path, *args, **kwargs):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", interrupt)
    monkeypatch.setattr(Image.Image, "save", lambda image, path: interrupt(path))
    with pytest.raises(KeyboardInterrupt):
        sample_run(run, tmp_path / name, num_images=8, seed=0, batch_size=8)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_other_samples_is_refused_by_what_differs(run, tmp_path):
    draw_into = lambda run, **options: sample_run(run, tmp_path / "f", **{"num_images": 1, "seed": 0, **options})
    draw_into(run)
    record = (tmp_path / "f" / "sampling.json").read_text()
    elsewhere = Run(save(tmp_path / "other", tiny_config(), steps=(4,)))
    for other, options, told in [
        (run, {"seed": 1}, "seed is 0 there and 1 here; choose another folder"),
        (run, {"num_steps": 5}, "sample.num_steps is 20 there and 5 here;"),
        (Run(run.workdir, params="raw"), {}, "params is 'ema' there and 'raw' here;"),
        (Run(run.workdir).configure(sampler="ddim"), {}, "sample.sampler is 'ancestral' there and 'ddim' here;"),
        (elsewhere, {}, "step is 3 there and 4 here;"),
    ]:
        with pytest.raises(UserError) as caught:
            draw_into(other, **options)
        assert str(caught.value).startswith(f"{tmp_path / 'f'} holds other samples: ")
        assert told in str(caught.value)
    assert sorted(path.name for path in (tmp_path / "f").iterdir()) == ["000000.png", "sampling.json"]
    assert (tmp_path / "f" / "sampling.json").read_text() == record
    assert json.loads(record)["sample"]["num_steps"] == 20


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"^cannot read .*/f/sampling\.json: Expecting .*; choose another folder$"),
        (b"\xff", r"^cannot read .*/f/sampling\.json: .*; choose another folder$"),
        (b"[1]", r"^.*/f/sampling\.json is not the record of a folder of samples; choose another folder$"),
        (b'{"network": 1, "sample": 1}', r"^.*/f/sampling\.json is not the record of a folder of samples"),
    ],
)
def test_a_folder_whose_record_is_damaged_is_refused(run, tmp_path, content, message):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "sampling.json").write_bytes(content)
    with pytest.raises(UserError, match=message):
        sample_run(run, tmp_path / "f", num_images=1, seed=0)
    assert [path.name for path in (tmp_path / "f").iterdir()] == ["sampling.json"]


def test_a_folder_with_other_files_is_refused(run, tmp_path):
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds other files; choose an empty or new folder$"):
        sample_run(run, tmp_path, num_images=1, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_folder_may_have_a_dot_in_its_name(run, tmp_path):
    sample_run(run, f"{tmp_path}/v1.0/", num_images=1, seed=0)
    sample_run(run, tmp_path / "v1.0", num_images=1, seed=0)
    assert (tmp_path / "v1.0" / "000000.png").exists()


def test_places_that_cannot_be_written_are_refused_before_anything_is_drawn(run, tmp_path, monkeypatch):
    monkeypatch.setattr("ddpm_jax.runs.run.draw", None)
    monkeypatch.setattr(sampling, "draw", None)
    (tmp_path / "file").write_text("")
    for out in ("file/grid.png", "file/all.npz", "file/folder", "file"):
        with pytest.raises(UserError, match=rf"^cannot write {tmp_path}/file/[^;]*; choose another place"):
            sample_run(run, tmp_path / out, num_images=1, seed=0)
    with pytest.raises(UserError, match=r"^picture.jpg must end in .png \(a grid\), .npz \(an array\) or / "):
        sample_run(run, "picture.jpg", num_images=1, seed=0)
    monkeypatch.setattr(Run, "chain", None)
    with pytest.raises(UserError, match=r"^cannot write .*chain.gif: "):
        sample_trajectory(run, tmp_path / "file" / "chain.gif", num_images=1, seed=0)
    (tmp_path / "folder.gif").mkdir()
    with pytest.raises(UserError, match=r"^cannot write .*folder.gif: Is a directory; "):
        sample_trajectory(run, tmp_path / "folder.gif", num_images=1, seed=0)
    with pytest.raises(UserError, match=r"^chain.mp4 must end in .gif$"):
        sample_trajectory(run, "chain.mp4", num_images=1, seed=0)


def test_a_trajectory_goes_from_the_noise_to_the_images(run, chain, images, tmp_path):
    frames = frames_of(chain, run, 10).x
    assert len(frames) == 11
    assert 0.9 < np.std(frames[0]) < 1.1
    np.testing.assert_array_equal(to_uint8(frames[-1]), images[:8])
    steps = np.abs(np.diff(frames, axis=0)).max(axis=(1, 2, 3, 4))
    assert np.all(steps > 0)


def test_the_animation_has_the_noisy_images_beside_the_estimates_at_even_steps_of_log_snr(run, tmp_path):
    kept = run.trajectory(8, num_frames=10, by_log_snr=True)
    sample_trajectory(run, tmp_path / "chain.gif", num_images=8, seed=0, num_frames=10)
    grids = [[tile_images(to_uint8(images))[..., 0].astype(int) for images in pair]
             for pair in zip(kept.x, kept.x_0, strict=True)]  # fmt: skip
    height, width = grids[0][0].shape
    with Image.open(tmp_path / "chain.gif") as picture:
        assert picture.n_frames == len(kept.times) == 11
        for index in (0, 5, 10):
            picture.seek(index)
            shown = np.asarray(picture.convert("L")).astype(int)
            assert shown.shape == (44 + height, 2 * width + 24)
            assert np.abs(shown[44:, :width] - grids[index][0]).max() <= 5  # of 32 values
            assert np.abs(shown[44:, -width:] - grids[index][1]).max() <= 5
            assert shown[:22].min() < 60  # the time is written


def test_frames_by_log_snr_are_some_of_those_of_all_steps(run):
    some, every = run.trajectory(2, num_frames=6, by_log_snr=True), run.trajectory(2, num_frames=20)
    assert (some.times[0], some.times[-1], len(some.times), some.evaluations) == (20, 0, 7, every.evaluations)
    schedule = factory.noise_schedule(run.config)
    log_snr = np.array([schedule.level(t).log_snr for t in every.times[:-1]])
    np.testing.assert_array_equal(some.times[:-1], every.times[spread_evenly(log_snr, 6)])
    assert not np.array_equal(some.times[:-1], every.times[spread_evenly(-every.times[:-1], 6)])
    indices = np.searchsorted(-every.times, -some.times)
    np.testing.assert_array_equal(every.times[indices], some.times)
    np.testing.assert_allclose(some.x, every.x[indices], atol=1e-5)
    np.testing.assert_allclose(some.x_0, every.x_0[indices], atol=1e-4)


def test_values_are_spread_evenly():
    np.testing.assert_array_equal(spread_evenly(np.arange(101.0), 5), [0, 25, 50, 75, 100])
    np.testing.assert_array_equal(spread_evenly(np.array([0.0, 1, 2]), 5), [0, 1, 2])
    values = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 1, 2, 3])  # the far ones first, then those that are between
    assert set(spread_evenly(values, 5)) >= {0, 5, 6, 7}
    assert len(spread_evenly(values, 5)) == 5


def test_progress_counts_every_move(run, chain):
    moves = []
    chain(run.params, jax.random.key(0), indices=np.arange(8), progress=moves.append)
    assert sum(moves) == chain.num_steps == 20


def test_a_piece_of_the_chain_lowers_for_a_machine_that_is_not_here(run, chain):
    """For a batch of its own; a TPU's program is another than a CPU's, in the loop of the random numbers at least."""
    lowered = {name: chain.lower(run.params, batch_size=16, platform=name) for name in ("tpu", "cpu")}
    assert all(program.out_info[0].x.shape == (16, 8, 8, 1) for program in lowered.values())
    assert lowered["tpu"].as_text() != lowered["cpu"].as_text()


def test_the_bar_of_a_drawing_counts_every_move_of_every_batch(run, chain, monkeypatch):
    bars = []

    class Bar(contextlib.nullcontext):
        def __init__(self, total, name, *, unit):
            self.total, self.moves = total, []
            bars.append(self)

        def __enter__(self):
            return self

        def update(self, moves):
            self.moves.append(moves)

    monkeypatch.setattr("ddpm_jax.runs.chain.progress_bar", Bar)
    draw(chain, run.params, seed=0, indices=np.arange(10), batch_size=8)
    assert [(bar.total, sum(bar.moves)) for bar in bars] == [(40, 40)]


def test_a_chain_has_a_stream_for_its_start_and_one_for_its_moves():
    """Image 5 of key k has x_T from stream "x_T" of `fold_in(k, 5)`, and move i from key i of its stream "chain"."""
    step = lambda denoise, keys, state, transition: (SamplerState(noise_like(keys, state.x)), StepInfo(state.x))
    taken = Sampler(SamplerState, step)
    options = {"transitions": linear(3).transitions(), "shape": (2, 2, 1), "mesh": device_mesh()}
    chain = Chain(CompiledChain(lambda settings: taken, lambda params, label, settings: None, **options), {})
    root = jax.random.key(7)
    frames = chain.frames((), root, indices=np.array([5]), num_frames=4).x[:, 0]
    image = jax.random.fold_in(root, 5)
    moves = [jax.random.fold_in(stream(image, "chain"), i) for i in range(3)]
    expected = [jax.random.normal(key, (2, 2, 1)) for key in (stream(image, "x_T"), *moves)]
    np.testing.assert_array_equal(frames, np.stack(expected))


def test_sampling_before_there_is_anything_to_sample_from_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"^there is no run in .*nothing; train one with: python train.py --workdir="):
        Run(tmp_path / "nothing")
    with pytest.raises(UserError, match=r" has no checkpoint yet; train first, or wait for the first save$"):
        Run(tmp_path)


def test_a_run_whose_newest_checkpoint_is_damaged_opens_the_one_before(tmp_path, capsys):
    config = tiny_config()
    save(tmp_path, config, steps=(1, 2))
    for path in (tmp_path / "checkpoints" / "2").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    opened = Run(tmp_path)
    assert opened.step == 1
    jax.tree.map(np.testing.assert_array_equal, opened.params, random_state(config, step=1).ema_params)
    assert f"warning: checkpoint {tmp_path / 'checkpoints' / '2'} is damaged (" in capsys.readouterr().err
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(random_state(config, step=3), to_json(config))
    assert Run(tmp_path).step == 3


@pytest.mark.parametrize("name", ["ema", "raw"])
def test_weights_that_are_not_finite_draw_nothing(tmp_path, name):
    config, state = tiny_config(), random_state(tiny_config())
    lost = jax.tree.map(lambda x: x * np.nan, state.params)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state.replace(params=lost, ema_params=lost), to_json(config))
    with pytest.raises(UserError, match=r"^every checkpoint in .* is damaged"):
        Run(tmp_path, params=name)
