"""Tiny data sets with the features of the real ones, written without TensorFlow and without a download.

The builders are TFDS's own, with only the two methods replaced that say what the images are, so that `features.json`
and `dataset_info.json` are those of a real preparation.
"""

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

# What the real builder of cifar10 reads from its archive.
CIFAR10_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
UNSIZED = (48, 64)  # height and width where the real images differ in size, as in lsun


def fake_builder(name, data_dir, *, config=None, sizes=None):
    """An unprepared builder whose `download_and_prepare` writes `sizes[split]` random images a split."""
    real = tfds.builder_cls(name)
    sizes = sizes or {"train": 5, "test": 3}

    class Fake(real, skip_registration=True):
        name = real.name
        pkg_dir_path = real.pkg_dir_path

        def _split_generators(self, dl_manager):
            del dl_manager
            if self.name == "cifar10":
                self.info.features["label"].names = CIFAR10_NAMES
            return {split: self._generate_examples(split) for split in sizes}

        def _generate_examples(self, split):
            rng = np.random.default_rng(sizes[split])
            for i in range(sizes[split]):
                yield i, _value(rng, self.info.features)

    return Fake(data_dir=data_dir, config=config, file_format="array_record")


def originals(builder, split):
    """What was written into a split, in the order of the files: TFDS's own reader, everything decoded."""
    return list(builder.as_data_source(split))


def _value(rng, feature):
    if isinstance(feature, tfds.features.FeaturesDict):
        return {key: _value(rng, part) for key, part in feature.items()}
    if isinstance(feature, tfds.features.Image):
        height, width, channels = feature.shape
        shape = (height or UNSIZED[0], width or UNSIZED[1], channels)
        array = rng.integers(0, 256, shape, dtype=np.uint8)
        return Image.fromarray(array[..., 0] if channels == 1 else array)
    if isinstance(feature, tfds.features.ClassLabel):
        return int(rng.integers(feature.num_classes))
    if isinstance(feature, tfds.features.BBoxFeature):
        return tfds.features.BBox(ymin=0.0, xmin=0.0, ymax=1.0, xmax=1.0)
    if feature.np_dtype == np.bool_:
        return bool(rng.integers(2))
    if feature.np_dtype == np.object_:
        return "text"
    return int(rng.integers(5))
