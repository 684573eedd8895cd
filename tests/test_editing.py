"""Pictures of one's own: read at the model's size or refused, interpolated from the one to the other, filled in."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from support.tiny import run as run_program
from support.tiny import save, tiny_config

from ddpm_jax.errors import UserError
from ddpm_jax.runs.editing import interpolate, read_mask, read_picture, spherical
from ddpm_jax.runs.run import Run
from ddpm_jax.runs.sampling import sample_run
from ddpm_jax.runtime.captions import hatched
from ddpm_jax.runtime.images import tile_images

pytestmark = pytest.mark.usefixtures("quick_compilation")

SHAPE = (8, 8, 1)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, quick_compilation):
    return save(tmp_path_factory.mktemp("edited") / "run", tiny_config(), steps=(3,))


@pytest.fixture
def pictures(tmp_path):
    """Two pictures and a mask whose lower half is to be drawn."""
    rng, paths = np.random.default_rng(0), {}
    arrays = {"a": rng.integers(0, 256, (8, 8)), "b": rng.integers(0, 256, (8, 8)), "mask": np.zeros((8, 8))}
    arrays["mask"][4:] = 255
    for name, array in arrays.items():
        paths[name] = tmp_path / f"{name}.png"
        Image.fromarray(array.astype(np.uint8)).save(paths[name])
    return paths


def test_the_sphere_is_walked_at_an_even_pace():
    a, b = np.array([[3.0, 0.0]]), np.array([[0.0, 3.0]])
    way = spherical(a, b, np.linspace(0, 1, 4))
    angle = np.deg2rad([0, 30, 60, 90])
    np.testing.assert_allclose(way[:, 0], 3 * np.stack([np.cos(angle), np.sin(angle)], axis=1), atol=1e-6)


def test_noises_that_are_alike_have_the_straight_line_between():
    a = jnp.asarray([1.0, 2.0])
    np.testing.assert_allclose(spherical(a, a, np.array([0, 0.5, 1])), np.tile(a, (3, 1)), rtol=1e-6)


def test_an_interpolation_begins_and_ends_with_the_pictures(workdir, pictures, tmp_path):
    """Which says that encoding and decoding return a picture, to two 8-bit levels of a random network."""
    out = interpolate(Run(workdir).configure(clip_x_0=False), [pictures["a"], pictures["b"]], tmp_path / "way.png",
                      num_images=3, num_steps=19)  # fmt: skip
    row = np.asarray(Image.open(out)).astype(int)
    zoom = 8  # a tile of 8 pixels is enlarged to 64, with as wide a gap
    tiles = [row[zoom : zoom + 64 : zoom, zoom + 72 * i : zoom + 72 * i + 64 : zoom] for i in range(3)]
    for tile, name in ((tiles[0], "a"), (tiles[2], "b")):
        assert np.max(np.abs(tile - np.asarray(Image.open(pictures[name])).astype(int))) <= 2
    assert np.mean(np.abs(tiles[1] - tiles[0])) > 5


@pytest.mark.slow
def test_an_interpolation_moves(workdir, pictures, tmp_path):
    out = interpolate(Run(workdir), [pictures["a"], pictures["b"]], tmp_path / "way.gif", num_images=4, num_steps=4)
    with Image.open(out) as movie:
        assert movie.n_frames == 4


def test_what_is_black_in_the_mask_is_kept(workdir, pictures, tmp_path):
    run = Run(workdir).inpaint(read_picture(pictures["a"], SHAPE), read_mask(pictures["mask"], SHAPE))
    with np.load(sample_run(run, tmp_path / "filled.npz", num_images=6, seed=0, num_steps=3)) as file:
        images = file["arr_0"]
    original = np.asarray(Image.open(pictures["a"]))
    np.testing.assert_array_equal(images[:, :4, :, 0], np.broadcast_to(original[:4], (6, 4, 8)))
    assert len(np.unique(images[:, 4:], axis=0)) == 6


def test_the_picture_of_an_inpainting_shows_the_original_and_what_was_given(workdir, pictures, tmp_path):
    run = Run(workdir).inpaint(read_picture(pictures["a"], SHAPE), read_mask(pictures["mask"], SHAPE))
    sample_run(run, tmp_path / "filled.png", num_images=4, seed=0, num_steps=3)
    shown = np.asarray(Image.open(tmp_path / "filled.png"))
    original = np.asarray(Image.open(pictures["a"]))[..., None]
    first, second = tile_images(original[None]), hatched(original, np.indices((8, 8))[0][..., None] < 4)
    results = tile_images(run.sample(4, num_steps=3))
    assert shown.shape == (22 + results.shape[0], 2 * first.shape[1] + results.shape[1] + 2 * 24)
    np.testing.assert_array_equal(shown[22:102, :80], first[..., 0])
    np.testing.assert_array_equal(shown[30:94, 112:176], second[..., 0])
    assert set(np.unique(second[32:])) == {120, 165}
    np.testing.assert_array_equal(shown[22:, -results.shape[1] :], results[..., 0])


def test_a_picture_and_a_mask_may_be_lists(workdir, pictures):
    image, known = read_picture(pictures["a"], SHAPE), read_mask(pictures["mask"], SHAPE)
    as_arrays = Run(workdir).inpaint(image, known).sample(2, num_steps=3)
    as_lists = Run(workdir).inpaint(image.tolist(), known.tolist()).sample(2, num_steps=3)
    np.testing.assert_array_equal(as_lists, as_arrays)


def test_the_program_fills_in_and_interpolates(workdir, pictures, tmp_path):
    options = ["--num_steps=2", "--num_images=3", f"--workdir={workdir}"]
    filled = run_program("sample.py", *options, f"--inpaint={pictures['a']}", f"--mask={pictures['mask']}",
                         f"--out={tmp_path / 'filled.png'}")  # fmt: skip
    assert (filled.status, filled.out) == (0, f"wrote {tmp_path / 'filled.png'} (step 3, ema parameters)\n")
    both = f"--interpolate={pictures['a']},{pictures['b']}"
    between = run_program("sample.py", *options, both)
    assert (between.status, between.out) == (
        0,
        f"wrote {workdir / 'interpolation_seed0.png'} (step 3, ema parameters)\n",
    )


@pytest.mark.slow
def test_an_interpolation_is_of_one_class(pictures, tmp_path, quick_compilation):
    """Without it where the model was trained so, else it has to be chosen."""
    ends = [pictures["a"], pictures["b"]]
    told = save(tmp_path / "told", tiny_config(labels__num_classes=10), steps=(3,))
    free = save(tmp_path / "free", tiny_config(labels__num_classes=10, labels__dropout=0.5), steps=(3,))
    with pytest.raises(UserError, match=r"an interpolation needs exactly one class: choose it, as in labels=7$"):
        interpolate(Run(told), ends, tmp_path / "x.png", num_steps=2)
    assert interpolate(Run(told).configure(labels="7", sampler="ddim"), ends, tmp_path / "x.png", num_steps=2).exists()
    assert interpolate(Run(free).configure(sampler="ddim"), ends, tmp_path / "y.png", num_steps=2).exists()


def picture(folder, size, name="other.png"):
    Image.fromarray(np.zeros(size, np.uint8)).save(folder / name)
    return folder / name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--inpaint={a}"], "--inpaint=IMAGE needs --mask=MASK"),
        (["--inpaint={a}", "--mask={wide}"], "the mask {wide} is 9x8 and the model's images are 8x8"),
        (["--inpaint={wide}", "--mask={mask}"], "the image {wide} is 9x8 and the model's images are 8x8"),
        (["--inpaint={a}", "--mask={black}"], "the mask {black} is completely black"),
        (["--inpaint=absent.png", "--mask={mask}"], "cannot read the image absent.png: No such file"),
        (["--interpolate={a},{b}", "--inpaint={a}", "--mask={mask}"], "--inpaint and --interpolate cannot be combined"),
        (["--interpolate={a}"], "an interpolation needs two pictures"),
        (["--interpolate={a},{b}", "--num_images=1"], "num_images of at least 2"),
        (
            ["--interpolate={a},{b}", "--out=x.npz"],
            "x.npz must end in .png (a row of images) or .gif (an animation)",
        ),
        (["--interpolate={a},{b}", "--num_steps=99"], "cannot solve the ODE in 99 steps"),
    ],
)
def test_a_mistake_is_one_line(workdir, pictures, tmp_path, arguments, message):
    places = {**pictures, "wide": picture(tmp_path, (8, 9)), "black": picture(tmp_path, (8, 8), "black.png")}
    outcome = run_program("sample.py", f"--workdir={workdir}", *[a.format(**places) for a in arguments])
    assert outcome.status == 1
    assert outcome.err.startswith("error: ")
    assert message.format(**places) in outcome.err
    assert outcome.err.count("\n") == 1
