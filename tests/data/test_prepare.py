import importlib.util

import numpy as np
import pytest
import tensorflow_datasets as tfds
from data.fake_tfds import fake_builder, originals
from PIL import Image

from ddpm_jax.data.prepare import main
from ddpm_jax.data.tfds import TfdsImages, find_builder


def tensorflow_is(spec, monkeypatch):
    """Lets the import system find this of TensorFlow, and the truth of everything else."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec if name == "tensorflow" else find(name))


def test_missing_tensorflow_is_one_line_with_the_remedy(tmp_path, monkeypatch, capsys):
    tensorflow_is(None, monkeypatch)
    assert main(["celeb_a", f"--data_dir={tmp_path}"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: preparing celeb_a needs TensorFlow")
    assert "`pip install tensorflow-cpu`" in error
    assert error.count("\n") == 1


def test_prepared_data_set_is_reported_without_tensorflow(prepared, tmp_path, monkeypatch, capsys):
    tensorflow_is(None, monkeypatch)
    assert main(["lsun/bedroom", f"--data_dir={prepared}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    folder = prepared / "lsun" / "bedroom" / "3.1.0"
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert lines == [
        f"lsun/bedroom/3.1.0 in {folder}: {size / 1e6:.1f} MB",
        "  train: 5 images",
        "  test: 3 images",
        f"wrote {prepared / 'lsun-bedroom-3.1.0.png'}",
    ]


def test_sheet_shows_the_first_images(prepared):
    assert main(["celeb_a", f"--data_dir={prepared}"]) == 0
    with Image.open(prepared / "celeb_a-2.1.0.png") as sheet:
        sheet = np.asarray(sheet)
    first = TfdsImages("celeb_a", "train", data_dir=prepared, size=64)[0]["image"]
    np.testing.assert_array_equal(sheet[1:65, 1:65], first)


def test_preparation_writes_array_records_that_the_source_reads(tmp_path, monkeypatch, capsys):
    asked = []

    def builder(name, *, data_dir, file_format):
        asked.append((name, file_format))
        return fake_builder(name, data_dir, sizes={"calibration": 2, "train": 70})

    tensorflow_is(object(), monkeypatch)
    monkeypatch.setattr(tfds, "builder", builder)
    for _ in range(2):  # the second time it is there already
        assert main(["mnist", f"--data_dir={tmp_path}"]) == 0
        assert "  train: 70 images\n" in capsys.readouterr().out
    assert asked == [("mnist", "array_record")]
    source = TfdsImages("mnist", "train", data_dir=tmp_path, size=28, channels=1)
    expected = originals(find_builder("mnist", tmp_path), "train")
    np.testing.assert_array_equal(source[69]["image"], expected[69]["image"])
    with Image.open(tmp_path / "mnist-3.0.1.png") as sheet:
        tiles = np.asarray(sheet)
    large = TfdsImages("mnist", "train", data_dir=tmp_path, size=64)
    assert tiles.shape == (8 * 65 + 1, 8 * 65 + 1, 3)
    np.testing.assert_array_equal(tiles[1:65, 66:130], large[1]["image"])
    np.testing.assert_array_equal(tiles[-65:-1, -65:-1], large[63]["image"])


@pytest.mark.parametrize(
    "failure",
    [OSError("no\nnetwork"), tfds.download.DownloadError("no network"), AssertionError("no network")],
)
def test_failed_download_is_one_line_that_tells_of_the_way_by_hand(tmp_path, monkeypatch, capsys, failure):
    def builder(*args, **options):
        raise failure

    tensorflow_is(object(), monkeypatch)
    monkeypatch.setattr(tfds, "builder", builder)
    assert main(["celeb_a", f"--data_dir={tmp_path}"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: cannot prepare celeb_a: no network ")
    assert f"{tmp_path}/downloads/manual" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "hint"),
    [("lsun", "lsun/ is not one of them; known names are airplane, bedroom,"), ("lsun/twer", "did you mean 'tower'")],
)
def test_configuration_has_to_be_chosen(tmp_path, monkeypatch, capsys, name, hint):
    tensorflow_is(object(), monkeypatch)
    assert main([name, f"--data_dir={tmp_path}"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: lsun has 30 configurations")
    assert hint in error


def test_unknown_data_set_is_an_error(prepared, capsys):
    assert main(["celb_a", f"--data_dir={prepared}"]) == 1
    assert "did you mean 'celeb_a'" in capsys.readouterr().err
