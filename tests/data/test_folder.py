import contextlib
import logging
import os
import pickle

import numpy as np
import pytest
from data.pictures import encoded, gradient
from PIL import Image

from ddpm_jax.data.folder import ImageFolder
from ddpm_jax.data.pipeline import batches
from ddpm_jax.errors import UserError


def flat(value, side=4):
    """A PNG of one grey level."""
    return encoded(np.full((side, side), value, np.uint8))


def fill(root, files):
    """Writes {relative path: bytes} below `root`."""
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)


def levels(source):
    """The grey level of each image of a source of flat images."""
    return [int(source[i]["image"][0, 0, 0]) for i in range(len(source))]


def test_images_come_in_the_order_of_their_paths(tmp_path):
    names = ["b.png", "a.PNG", "Z.png", "ä.png", "雪 花.png", "a-1.png"]
    fill(tmp_path, {name: flat(i) for i, name in enumerate(names)})
    source = ImageFolder(tmp_path, size=4, channels=1)
    assert source.paths == sorted(names)
    assert levels(source) == [names.index(name) for name in sorted(names)]
    assert (source.num_classes, source.class_names) == (0, ())
    assert {int(source[i]["label"]) for i in range(len(source))} == {0}


def test_first_level_folders_are_the_labels(tmp_path):
    files = {"dogs/deep/er/1.png": 1, "cats/3.png": 3, "cats/2.png": 2, "birds/4.png": 4, "Zebras/5.png": 5}
    fill(tmp_path, {path: flat(value) for path, value in files.items()})
    (tmp_path / "empty").mkdir()
    source = ImageFolder(tmp_path, size=4, channels=1)
    assert source.class_names == ("Zebras", "birds", "cats", "dogs")
    assert source.num_classes == 4
    assert levels(source) == [5, 4, 2, 3, 1]
    labels = [source[i]["label"] for i in range(len(source))]
    assert labels == [0, 1, 2, 2, 3]
    assert labels[0].dtype == np.int32


def test_mixture_of_labelled_and_loose_images_is_refused(tmp_path):
    fill(tmp_path, {"cats/1.png": flat(1), "stray.png": flat(2)})
    with pytest.raises(UserError, match=r"\(cats/1.png\) and outside of them \(stray.png\)"):
        ImageFolder(tmp_path, size=4)


def test_folders_that_cannot_serve_say_what_to_do(tmp_path):
    fill(tmp_path, {"file.txt": b"x"})
    with pytest.raises(UserError, match=r"missing does not exist: give the path of a folder"):
        ImageFolder(tmp_path / "missing", size=4)
    with pytest.raises(UserError, match=r"file.txt is a file, not a folder"):
        ImageFolder(tmp_path / "file.txt", size=4)
    with pytest.raises(UserError, match=rf"no images in {tmp_path}: add some \(.jpg"):
        ImageFolder(tmp_path, size=4)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_folder_without_permission_is_not_passed_over(tmp_path):
    fill(tmp_path, {"a/1.png": flat(1), "b/2.png": flat(2)})
    (tmp_path / "b").chmod(0)
    try:
        with pytest.raises(UserError, match=r"cannot list the folder .*b: Permission denied"):
            ImageFolder(tmp_path, size=4)
    finally:
        (tmp_path / "b").chmod(0o755)


def test_links_are_followed_each_folder_once(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    fill(root, {"cats/1.png": flat(1), "dogs/2.png": flat(2)})
    fill(elsewhere, {"3.png": flat(3)})
    (root / "cats" / "up").symlink_to(root)  # a loop
    (root / "self").symlink_to(root / "self")  # a link to itself
    (root / "cats" / "alias").symlink_to(root / "dogs")  # must not make cats of the dogs
    (root / "owls").symlink_to(elsewhere)
    for i in range(8):
        (root / f"owls {7 - i}").symlink_to(elsewhere)  # the first name has it
    source = ImageFolder(root, size=4, channels=1)
    assert source.paths == ["cats/1.png", "dogs/2.png", "owls/3.png"]
    assert levels(source) == [1, 2, 3]


def test_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    fill(tmp_path / "pictures", {"1.png": flat(1)})
    assert levels(ImageFolder("~/pictures", size=4, channels=1)) == [1]


def test_images_are_cropped_and_resized(tmp_path):
    picture = gradient(218, 178)
    fill(tmp_path, {"face.png": encoded(picture)})
    aligned = ImageFolder(tmp_path, size=128, crop=(25, 57, 153, 185))[0]["image"]
    np.testing.assert_array_equal(aligned, picture[57:185, 25:153])
    centre = ImageFolder(tmp_path, size=178)[0]["image"]
    np.testing.assert_array_equal(centre, picture[20:198])
    # On a gradient, halving by a symmetric filter gives the mean of two neighbours, away from the border.
    half = ImageFolder(tmp_path, size=64, crop=[25, 57, 153, 185])[0]["image"]
    x, y = np.meshgrid(25.5 + 2 * np.arange(64), 57.5 + 2 * np.arange(64))
    np.testing.assert_allclose(half[1:-1, 1:-1, 0], x[1:-1, 1:-1], atol=0.51)
    np.testing.assert_allclose(half[1:-1, 1:-1, 1], y[1:-1, 1:-1], atol=0.51)


def test_exif_rotation_precedes_the_crop(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to view
    picture = gradient(30, 40)
    fill(tmp_path, {"turned.png": encoded(picture, exif=exif)})
    cut = ImageFolder(tmp_path, size=8, crop=(20, 30, 28, 38))[0]["image"]
    np.testing.assert_array_equal(cut, np.rot90(picture, -1)[30:38, 20:28])


DAMAGED = {
    "1 truncated.jpg": encoded(np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8), "JPEG")[:300],
    "2 empty.png": b"",
    "3 text.png": b"This is no picture.",
    "5 small.png": flat(0, side=2),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_unreadable_image_stops_with_its_path_and_the_way_out(tmp_path, name):
    fill(tmp_path, {name: DAMAGED[name]})
    source = ImageFolder(tmp_path, size=4, crop=(0, 0, 4, 4))
    with pytest.raises(UserError, match=rf"{tmp_path}/{name}: .* config.data.skip_unreadable=True") as caught:
        source[0]
    assert "\n" not in str(caught.value)


def test_vanished_image_is_unreadable(tmp_path):
    fill(tmp_path, {"a.png": flat(1)})
    source = ImageFolder(tmp_path, size=4)
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match=r"a.png: No such file or directory"):
        source[0]


def test_skipping_takes_the_next_readable_image_and_warns_once(tmp_path, caplog):
    fill(tmp_path, DAMAGED | {"0.png": flat(10), "4.png": flat(40)})
    source = ImageFolder(tmp_path, size=4, channels=1, crop=(0, 0, 4, 4), skip_unreadable=True)
    with caplog.at_level(logging.WARNING):
        # In the order of the paths: 0, three damaged, 4, one damaged that is followed by the first.
        assert levels(source) == [10, 40, 40, 40, 40, 10]
        assert levels(source) == [10, 40, 40, 40, 40, 10]
    assert source.num_skipped == 4
    assert len(caplog.messages) == 4
    for name, message in zip(sorted(DAMAGED), sorted(caplog.messages), strict=True):
        assert f"{tmp_path}/{name}: " in message


def test_a_folder_of_every_oddity_is_read_to_its_end(tmp_path):
    """What loads is right, what does not is passed over, whatever the file is called; nothing hangs."""
    red, deep = Image.new("RGB", (4, 4), (255, 0, 0)), np.full((4, 4), 257 * 60, np.uint16)
    odd = {
        "a 16 bit.png": encoded(deep),
        "b palette.png": encoded(red.quantize(4)),
        "c animated.gif": encoded(red, "GIF", save_all=True, append_images=[Image.new("RGB", (4, 4))]),
        "d cmyk.jpg": encoded(red.convert("CMYK"), "JPEG", quality=100),
        "ü 猫 \N{GRINNING FACE}.png": flat(90),
    }
    fill(tmp_path, DAMAGED | odd)
    (tmp_path / "loop").symlink_to(tmp_path)
    source = ImageFolder(tmp_path, size=4, crop=(0, 0, 4, 4), skip_unreadable=True)
    assert len(source) == len(DAMAGED | odd)
    with contextlib.closing(batches(source, batch_size=len(source), seed=0)) as stream:
        assert next(stream)["image"].shape == (9, 4, 4, 3)
    pixels = {path: source[i]["image"][0, 0] for i, path in enumerate(source.paths) if path in odd}
    expected = {"a": (60, 60, 60), "b": (255, 0, 0), "c": (255, 0, 0), "d": (254, 0, 0), "ü": (90, 90, 90)}
    for path, pixel in pixels.items():
        np.testing.assert_allclose(pixel.astype(int), expected[path[0]], atol=2, err_msg=path)
    assert source.num_skipped == len(DAMAGED)


def test_skipped_image_brings_its_substitutes_label(tmp_path):
    fill(tmp_path, {"a/1.png": b"", "b/2.png": flat(2)})
    example = ImageFolder(tmp_path, size=4, skip_unreadable=True)[0]
    assert (example["image"][0, 0, 0], example["label"]) == (2, 1)


def test_folder_without_one_readable_image_ends(tmp_path):
    fill(tmp_path, DAMAGED)
    source = ImageFolder(tmp_path, size=4, crop=(0, 0, 4, 4), skip_unreadable=True)
    for _ in range(2):
        with pytest.raises(UserError, match="none of the 4 images can be read"):
            source[2]


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"size": 0}, "at least 1 pixel"),
        ({"size": 4, "channels": 4}, "1 channel .* or 3"),
        ({"size": 4, "crop": (0, 0, 8, 9)}, "crop must be a square"),
        ({"size": 4, "crop": (8, 8, 0, 0)}, "crop must be a square"),
        ({"size": 4, "crop": (-1, 0, 7, 8)}, "crop must be a square"),
        ({"size": 4, "crop": (0, -1, 8, 7)}, "crop must be a square"),
        ({"size": 4, "crop": (8, 8)}, "crop must be a square"),
    ],
)
def test_impossible_forms_are_refused(tmp_path, form, message):
    with pytest.raises(UserError, match=message):
        ImageFolder(tmp_path, **form)


def test_copy_by_pickle_reads_the_same(tmp_path):
    fill(tmp_path, {"cats/1.png": flat(1), "dogs/2.png": flat(2)})
    source = pickle.loads(pickle.dumps(ImageFolder(tmp_path, size=4, channels=1)))
    assert levels(source) == [1, 2]
    assert source[1]["label"] == 1
    with pytest.raises(IndexError):
        source[2]


def test_of_animations_the_first_frame_is_taken_and_this_is_said_once_and_counted(tmp_path, caplog):
    frames = [Image.new("L", (4, 4), level) for level in (10, 20, 30)]
    animation = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    fill(tmp_path, {"0.png": flat(5), "1.gif": animation, "2.gif": animation})
    source = ImageFolder(tmp_path, size=4, channels=1)
    with caplog.at_level(logging.WARNING):
        assert levels(source) == [5, 10, 10]
        assert levels(source) == [5, 10, 10]
    assert source.num_animated == 2
    assert caplog.messages == [
        f"{tmp_path}/1.gif has several frames: only the first is used, as for every image with several frames"
    ]
