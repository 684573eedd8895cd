"""diffusers, quietly and without a network, where it is installed; a tiny network as it writes them."""

import json
import os
import warnings

import pytest
import safetensors.numpy
from support.tiny import save, tiny_config
from support.weights import PLAIN, Foreign

from ddpm_jax.convert.outgoing import export_diffusers
from ddpm_jax.runs.run import Run

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


@pytest.fixture(scope="session")
def foreign(tmp_path_factory):
    """A tiny network, as diffusers has it."""
    path = tmp_path_factory.mktemp("foreign")
    save(path / "run", tiny_config())
    export_diffusers(Run(path / "run"), path / "out")
    unet = path / "out" / "unet"
    return Foreign(json.loads((unet / "config.json").read_text()), safetensors.numpy.load_file(unet / PLAIN))
