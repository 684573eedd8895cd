"""Settings for every test: eight virtual CPU devices, compiled programs kept, float64 where a test asks for it."""

import atexit
import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
if version("jax").startswith("0.10."):  # halves the time to compile; later versions have no such flag
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # For all processes of the tests, so that each larger program compiles once, and never in the user's folder.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled_")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

import jax
import pytest
from absl import flags

ROOT = Path(__file__).parents[1]
SOURCES = (
    "ddpm_jax",
    "configs",
    "requirements",
    "requirements.txt",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "docs/play",
)
flags.FLAGS.mark_as_parsed()
gc.set_threshold(100_000, 50, 100)  # a tracing makes many objects that live on: looking through them takes a tenth
signal.signal(signal.SIGINT, signal.default_int_handler)  # which the background jobs of a shell ignore


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files with slow tests first, so that no process is left alone with one in the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture
def x64() -> Iterator[None]:
    """Runs the test in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def quick_compilation() -> Iterator[None]:
    """Leaves most optimisations out, here and in processes that the tests start: programs compile in half the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    yield
    del os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"]
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory, apart from the folder that the test works in."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


@pytest.fixture(scope="module")
def page() -> Iterator[object]:
    """The playground in a browser."""
    from support.playground import FOLDER, opened

    with opened(FOLDER / "index.html") as shown:
        yield shown


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the sources, built without a network."""
    pytest.importorskip("setuptools", minversion="77", reason="pip install -r requirements-dev.txt")
    clone = tmp_path_factory.mktemp("clone")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (clone / name).parent.mkdir(exist_ok=True)
        copy(ROOT / name, clone / name)
    program = "import setuptools.build_meta as build; build.build_wheel('dist')"
    done = subprocess.run([sys.executable, "-c", program], cwd=clone, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = (clone / "dist").iterdir()
    return built


@pytest.fixture(scope="session")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of installed packages that holds the wheel alone."""
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(site)
    return site


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """The address of a bucket of Google Cloud Storage, emulated on the loopback address."""
    pytest.importorskip("gcp_storage_emulator", reason="pip install -r requirements-dev.txt")
    from support.bucket import emulated

    with emulated() as address:
        yield address
