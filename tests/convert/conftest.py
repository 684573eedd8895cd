"""diffusers, quietly and without a network, where it is installed."""

import os
import warnings

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="session")
def diffusers():
    """The package, or the test is skipped; what it warns of while it is imported is its own affair."""
    torch = pytest.importorskip("torch", reason="pip install -r requirements/diffusers.txt")
    torch.set_num_threads(1)  # its threads and JAX's would stand in each other's way
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        package = pytest.importorskip("diffusers", reason="pip install -r requirements/diffusers.txt")
        package.utils.logging.disable_progress_bar()
        return package
