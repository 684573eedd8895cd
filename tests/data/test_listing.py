"""Nothing below a folder of images is left out unsaid."""

import numpy as np
import pytest
from data.pictures import encoded

from ddpm_jax import factory
from ddpm_jax.data import listing
from ddpm_jax.data.folder import ImageFolder
from ddpm_jax.data.listing import list_images
from ddpm_jax.errors import UserError

PICTURE = encoded(np.zeros((4, 4), np.uint8))


def fill(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(PICTURE)


def test_files_that_are_passed_over_are_counted_and_named_by_kind(tmp_path):
    fill(
        tmp_path, "b.png", "a.jfif", "notes.txt", "Thumbs.db", "png", "list.csv", "plan.EPS", "old.ps", "x.emf", "y.h5"
    )
    listed = list_images(tmp_path)
    assert listed.images == ["a.jfif", "b.png"]
    assert listed.passed_over["of other formats"] == ["Thumbs.db", "list.csv", "notes.txt", "png"]
    drawing = "a drawing, which another program must convert into an image"
    assert listed.note() == (
        "; skipped 4 files of other formats (Thumbs.db, list.csv, notes.txt and 1 more)"
        f", 1 file of the format EMF, {drawing} (x.emf)"
        f", 2 files of the format EPS, {drawing} (old.ps, plan.EPS)"
        ", 1 file of the format HDF5, which is not a supported kind of image (y.h5)"
    )


def test_a_format_that_this_pillow_lacks_is_named_and_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "supported_formats", lambda: ("JPEG", "PNG"))
    fill(tmp_path, "a/1.png", "b/2.avif")
    listed = list_images(tmp_path)
    assert (listed.images, listed.empty_folders) == (["a/1.png"], ["b"])
    assert "skipped 1 file that this build of Pillow " in listed.note()
    assert "pip install --upgrade pillow may help (b/2.avif)" in listed.note()


def test_folders_of_the_system_and_hidden_ones_are_left_out(tmp_path):
    hidden = (
        "@eaDir/1.jpg",
        "__MACOSX/cats/1.jpg",
        ".cache/1.jpg",
        "$RECYCLE.BIN/1.jpg",
        "cats/@eaDir/2.jpg",
        ".x.png",
    )
    fill(
        tmp_path,
        "cats/1.png",
        "System Volume Information/1.jpg",
        "lost+found/1.jpg",
        "cats/.DS_Store",
        ".x.png",
        *hidden,
    )
    listed = list_images(tmp_path)
    assert (listed.images, listed.passed_over, listed.note()) == (["cats/1.png"], {}, "")


def test_a_class_folder_without_images_is_said(tmp_path):
    fill(tmp_path, "cats/1.png", "dogs/notes.txt")
    (tmp_path / "birds" / "deep").mkdir(parents=True)
    source = ImageFolder(tmp_path, size=4)
    assert source.class_names == ("cats",)
    assert source.empty_folders == ["birds", "dogs"]
    assert source.note.endswith("; 2 folders contain no images and are not classes (birds, dogs)")


def test_folders_beside_images_without_classes_are_no_classes_to_miss(tmp_path):
    fill(tmp_path, "1.png")
    (tmp_path / "empty").mkdir()
    assert ImageFolder(tmp_path, size=4).note == f"{tmp_path}: 1 image"


def test_a_folder_without_images_says_what_it_holds_instead(tmp_path):
    fill(tmp_path, "a.heic", "b.heic")
    with pytest.raises(UserError, match=r"no images in .*: add .* \(.jpg .*; skipped 2 files .* \(a.heic, b"):
        ImageFolder(tmp_path, size=4)


def test_jobs_print_the_note_in_one_short_line(tmp_path, capsys):
    from support.tiny import tiny_config

    fill(tmp_path, "cats/1.png", "dogs/2.png", *(f"{'x' * 200}{i}\n.txt" for i in range(9)))
    factory.source(tiny_config(data__source="folder", data__path=str(tmp_path)))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{tmp_path}: 2 images in 2 class folders; skipped 9 files of other formats (xxx")
    assert len(line) < 500
