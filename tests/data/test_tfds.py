import json
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from data.fake_tfds import CIFAR10_NAMES, UNSIZED, fake_builder, originals
from PIL import Image

from ddpm_jax.data.tfds import TfdsImages, find_builder
from ddpm_jax.errors import UserError


def written(data_dir, name, split="train"):
    return originals(find_builder(name, data_dir), split)


def test_cifar10_is_what_was_written(prepared):
    source = TfdsImages("cifar10", "train", data_dir=prepared, size=32)
    expected = written(prepared, "cifar10")
    assert len(source) == len(expected) == 5
    for i, example in enumerate(expected):
        np.testing.assert_array_equal(source[i]["image"], example["image"])
        assert source[i]["label"] == example["label"]
    assert source[0]["label"].dtype == np.int32
    assert source.num_classes == 10
    assert source.class_names == tuple(CIFAR10_NAMES)


def test_celeb_a_takes_the_aligned_crop(prepared):
    form = {"data_dir": prepared, "crop": (25, 57, 153, 185)}
    whole = TfdsImages("celeb_a", "test", size=128, **form)
    small = TfdsImages("celeb_a", "test", size=64, **form)
    for i, example in enumerate(written(prepared, "celeb_a", "test")):
        cut = example["image"][121 - 64 : 121 + 64, 89 - 64 : 89 + 64]
        np.testing.assert_array_equal(whole[i]["image"], cut)
        resized = np.asarray(Image.fromarray(cut).resize((64, 64), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(small[i]["image"], resized)
    assert (small.num_classes, small.class_names) == (0, ())


def test_celeb_a_attribute_is_a_label_of_two_classes(prepared):
    source = TfdsImages("celeb_a", "train", data_dir=prepared, size=8, label_key="attributes/Smiling")
    expected = [int(example["attributes"]["Smiling"]) for example in written(prepared, "celeb_a")]
    assert [source[i]["label"] for i in range(5)] == expected
    assert set(expected) == {0, 1}
    assert (source.num_classes, source.class_names) == (2, ("not Smiling", "Smiling"))


def test_mnist_stays_grey_at_its_own_size_and_grows_to_32(prepared):
    expected = written(prepared, "mnist")
    own = TfdsImages("mnist", "train", data_dir=prepared, size=28, channels=1)
    grown = TfdsImages("mnist", "train", data_dir=prepared, size=32, channels=1)
    for i, example in enumerate(expected):
        np.testing.assert_array_equal(own[i]["image"], example["image"])
        resized = Image.fromarray(example["image"][..., 0]).resize((32, 32), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(grown[i]["image"][..., 0], np.asarray(resized))
        assert own[i]["label"] == example["label"]


def test_lsun_has_no_labels(prepared):
    source = TfdsImages("lsun/bedroom", "train", data_dir=prepared, size=UNSIZED[0])
    margin = (UNSIZED[1] - UNSIZED[0]) // 2
    for i, example in enumerate(written(prepared, "lsun/bedroom")):
        np.testing.assert_array_equal(source[i]["image"], example["image"][:, margin:-margin])
        assert source[i]["label"] == 0
    assert (source.num_classes, source.class_names) == (0, ())


def test_splits_may_be_sliced_and_added(prepared):
    sizes = {"train[:60%]": 3, "train[3:]": 2, "train+test": 8, "all": 8}
    for split, size in sizes.items():
        assert len(TfdsImages("mnist", split, data_dir=prepared, size=28)) == size
    tail = TfdsImages("mnist", "train[3:]", data_dir=prepared, size=28, channels=1)
    np.testing.assert_array_equal(tail[0]["image"], written(prepared, "mnist")[3]["image"])
    for index in (2, -1):
        with pytest.raises(IndexError):
            tail[index]


@pytest.mark.parametrize("split", ["trian", "train[:0]", "train["])
def test_split_without_images_names_the_splits(prepared, split):
    with pytest.raises(UserError, match=r"no images in the split .* of mnist/3.0.1; its splits are t.*, t"):
        TfdsImages("mnist", split, data_dir=prepared, size=28)


def test_unprepared_data_set_names_the_command(prepared, tmp_path):
    with pytest.raises(UserError, match=r"contains celeb_a, cifar10, lsun/bedroom, mnist.*") as caught:
        TfdsImages("cifar100", "train", data_dir=prepared, size=32)
    assert f"`python -m ddpm_jax.data.prepare cifar100 --data_dir={prepared}`" in str(caught.value)
    for wrong in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match=r"cifar10 is not prepared in .*which contains no data set"):
            TfdsImages("cifar10", "train", data_dir=wrong, size=32)
    with pytest.raises(UserError, match=r"not prepared in .*`python -m ddpm_jax.data.prepare lsun/chrch "):
        TfdsImages("lsun/chrch", "train", data_dir=prepared, size=32)


def test_default_folder_is_that_of_tfds(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    assert len(TfdsImages("mnist", "test", size=28)) == 3


def test_data_set_prepared_as_tfrecord_is_told_apart(prepared, tmp_path):
    shutil.copytree(prepared / "mnist", tmp_path / "mnist")
    info = tmp_path / "mnist" / "3.0.1" / "dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"fileFormat": "tfrecord"}))
    with pytest.raises(UserError, match=r"prepared as tfrecord, .*prepare mnist --data_dir=DIR"):
        TfdsImages("mnist", "train", data_dir=tmp_path, size=28)


def test_missing_file_of_a_data_set_is_named(prepared, tmp_path):
    shutil.copytree(prepared / "mnist", tmp_path / "mnist")
    (record_file,) = (tmp_path / "mnist").rglob("mnist-train.array_record*")
    record_file.unlink()
    source = TfdsImages("mnist", "train", data_dir=tmp_path, size=28, skip_unreadable=True)
    with pytest.raises(UserError, match=r"cannot read image 0 .*mnist-train.array_record.*; prepare .* again"):
        source[0]


def test_unknown_label_is_refused(prepared, monkeypatch):
    source = TfdsImages("cifar10", "train", data_dir=prepared, size=32)
    monkeypatch.setattr(source, "num_classes", int(source[0]["label"]))
    with pytest.raises(UserError, match=r"image 0 of cifar10/3.0.2 train has the label"):
        source[0]


def test_unknown_names_suggest_near_ones(prepared):
    with pytest.raises(UserError, match="no data set 'celb_a'; did you mean 'celeb_a'"):
        TfdsImages("celb_a", "train", data_dir=prepared, size=8)
    with pytest.raises(UserError, match=r"no label 'Smiling'; did you mean 'attributes/Smiling'\?"):
        TfdsImages("celeb_a", "train", data_dir=prepared, size=8, label_key="Smiling")
    with pytest.raises(UserError, match="no label 'attributes/Smilng'; did you mean 'attributes/Smiling' or"):
        TfdsImages("celeb_a", "train", data_dir=prepared, size=8, label_key="attributes/Smilng")


def test_data_set_without_images_is_refused(tmp_path):
    fake_builder("ag_news_subset", tmp_path, sizes={"train": 1}).download_and_prepare()
    with pytest.raises(UserError, match=r"single images; its features are description, label, title"):
        TfdsImages("ag_news_subset", "train", data_dir=tmp_path, size=8)


def test_image_is_preferred_to_other_pictures(tmp_path):
    builder = fake_builder("oxford_iiit_pet", tmp_path, sizes={"train": 2})
    builder.download_and_prepare()
    assert {"image", "segmentation_mask"} <= set(builder.info.features)
    source = TfdsImages("oxford_iiit_pet", "train", data_dir=tmp_path, size=48)
    margin = (UNSIZED[1] - UNSIZED[0]) // 2
    expected = originals(builder, "train")[0]["image"][:, margin:-margin]
    np.testing.assert_array_equal(source[0]["image"], expected)


def test_floating_point_images_are_refused(prepared, monkeypatch):
    monkeypatch.setattr(tfds.features.Image, "np_dtype", np.float32)
    with pytest.raises(UserError, match=r"cifar10/3.0.2 stores its images as float32"):
        TfdsImages("cifar10", "train", data_dir=prepared, size=32)


def test_unreadable_image_is_named_or_skipped(prepared, monkeypatch, caplog):
    source = TfdsImages("cifar10", "train", data_dir=prepared, size=32)
    read = TfdsImages._read
    monkeypatch.setattr(TfdsImages, "_read", lambda self, i: (b"", 0) if i == 2 else read(self, i))
    with pytest.raises(UserError, match=r"image 2 of cifar10/3.0.2 train: the file is empty; .*skip_unreadable"):
        source[2]
    skipping = TfdsImages("cifar10", "train", data_dir=prepared, size=32, skip_unreadable=True)
    np.testing.assert_array_equal(skipping[2]["image"], source[3]["image"])
    assert skipping.num_skipped == 1
    assert caplog.messages == ["skipping image 2 of cifar10/3.0.2 train: the file is empty"]


def test_copy_by_pickle_reads_the_same(prepared):
    source = TfdsImages("celeb_a", "train", data_dir=prepared, size=8, label_key="attributes/Male")
    copy = pickle.loads(pickle.dumps(source))
    for i in range(len(source)):
        np.testing.assert_array_equal(copy[i]["image"], source[i]["image"])
        assert copy[i]["label"] == source[i]["label"]


def test_reading_loads_no_tensorflow_and_importing_loads_no_reader(prepared):
    program = """
import sys
import ddpm_jax.data
assert not {"grain", "tensorflow_datasets", "array_record"} & set(sys.modules)
source = ddpm_jax.data.TfdsImages("cifar10", "train", data_dir=sys.argv[1], size=32)
assert source[0]["image"].shape == (32, 32, 3)
next(ddpm_jax.data.batches(source, batch_size=2, seed=0))
print([name for name in sys.modules if name.partition(".")[0] in ("tensorflow", "torch")])
"""
    done = subprocess.run([sys.executable, "-c", program, str(prepared)], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
