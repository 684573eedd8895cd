"""The tiny TFDS data sets that several tests read."""

import pytest


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A data_dir with celeb_a, cifar10, mnist and lsun/bedroom prepared in it."""
    from data.fake_tfds import fake_builder

    data_dir = tmp_path_factory.mktemp("tfds")
    for name, config in (("celeb_a", None), ("cifar10", None), ("mnist", None), ("lsun", "bedroom")):
        fake_builder(name, data_dir, config=config).download_and_prepare(download_dir=data_dir / "downloads")
    return data_dir
