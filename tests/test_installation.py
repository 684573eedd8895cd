"""What is installed: a wheel that is a whole library, extras that are the requirement files, one address."""

import importlib
import os
import re
import subprocess
import sys
import tomllib
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from support.tiny import ROOT, arguments, tiny_config

import ddpm_jax as dj

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = sorted(path.stem for path in (ROOT / "requirements").iterdir())


@pytest.fixture(scope="module")
def metadata(site) -> Message:
    """What the wheel says of itself."""
    (path,) = site.glob("*.dist-info/METADATA")
    return Parser().parsestr(path.read_text())


def files(folder: Path) -> set[str]:
    """Every file below a folder that is source or data."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}


def requirements(*paths: Path) -> list[str]:
    """The requirements of files, in one notation, with those that a file includes."""
    found = []
    for path in paths:
        for line in path.read_text().splitlines():
            line = line.partition("#")[0].strip()
            if line.startswith("-r "):
                found += requirements(path.parent / line[3:])
            elif line:
                found.append(str(Requirement(line)))
    return found


def test_the_wheel_holds_every_file_and_nothing_beside_the_package(site):
    installed = {f"ddpm_jax/{file}" for file in files(ROOT / "ddpm_jax")}
    installed |= {f"ddpm_jax/experiments/{file}" for file in files(ROOT / "configs")}
    installed |= {f"ddpm_jax/evaluation/play/{file}" for file in files(ROOT / "docs" / "play")}
    assert {file for file in files(site) if ".dist-info/" not in file} == installed
    assert "ddpm_jax/data/digits.npz" in installed


def test_the_wheel_names_its_version_address_and_pythons(metadata):
    assert (metadata["Name"], metadata["Version"]) == ("ddpm_jax", dj.__version__)
    assert metadata["Requires-Python"] == ">=3.11"
    pythons = {f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)}
    assert pythons <= set(metadata.get_all("Classifier"))
    assert metadata.get_all("Project-URL") == [f"Repository, {PYPROJECT['project']['urls']['Repository']}"]


def test_extras_are_the_requirement_files(metadata):
    declared = {extra: [] for extra in ("", *metadata.get_all("Provides-Extra"))}
    for text in metadata.get_all("Requires-Dist"):
        requirement = Requirement(text)
        extra = re.search(r'extra == "(\w+)"', str(requirement.marker))
        requirement.marker = None
        declared[extra.group(1) if extra else ""].append(str(requirement))
    files = {"": ROOT / "requirements.txt", **{extra: ROOT / "requirements" / f"{extra}.txt" for extra in EXTRAS}}
    assert declared == {extra: requirements(path) for extra, path in files.items()}
    assert {
        "dev",
        "docs",
        "notebooks",
        "diffusers",
        "prepare",
        "cuda12",
        "cuda13",
        "gcs",
        "tpu",
        "wandb",
        "mlflow",
    } == set(EXTRAS)


def test_no_file_of_an_extra_includes_another():
    """Setuptools does not follow `-r`; only the file that people install for development does so."""
    including = [path.name for path in ROOT.rglob("requirements*/*.txt") if "-r " in path.read_text()]
    assert including == []
    files = (ROOT / "requirements.txt", ROOT / "requirements" / "dev.txt", ROOT / "requirements" / "gcs.txt")
    assert requirements(ROOT / "requirements-dev.txt") == requirements(*files)


def test_every_folder_of_the_package_is_installed():
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "ddpm_jax").rglob("__init__.py")}
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == folders | {
        "ddpm_jax.experiments",
        "ddpm_jax.evaluation.play",
    }


@pytest.mark.parametrize("name", ["train", "sample", "evaluate", "convert", "status"])
def test_a_command_is_the_program_of_its_name(name):
    target = PYPROJECT["project"]["scripts"][f"ddpm-{name}"]
    module, _, function = target.partition(":")
    assert module == ("ddpm_jax.convert.__main__" if name == "convert" else f"ddpm_jax.commands.{name}")
    assert importlib.util.find_spec(module)
    source = Path(importlib.util.find_spec(module).origin).read_text()
    assert f"\ndef {function}() -> None:\n" in source
    assert len(PYPROJECT["project"]["scripts"]) == 5


def test_the_address_of_the_repository_stands_in_one_place():
    """Beside it only what a person reads before having the code: the README and the first cells of the notebooks."""
    address = PYPROJECT["project"]["urls"]["Repository"]
    patterns = ["*.toml", "*.md", "*.py", "*.yml", "*.yaml", "*.cff", "*/*.md", "*/*.py", "*/*/*.py", "*/*/*/*.py"]
    patterns += [".github/*.*", ".github/*/*.*"]
    holding = {
        str(path.relative_to(ROOT))
        for pattern in patterns
        for path in ROOT.glob(pattern)
        if path.is_file() and address in path.read_text()
    }
    assert holding == {"pyproject.toml", "README.md"}
    assert f"git clone {address} && cd ddpm_jax\n" in (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_the_wheel_alone_trains_and_draws_in_an_empty_folder(site, tmp_path, quick_compilation):
    """By the entry point of its command, with an experiment by its name."""
    module, _, function = PYPROJECT["project"]["scripts"]["ddpm-train"].partition(":")
    program = f"""
from ddpm_jax.evaluation.playground import FOLDER
import {module} as command
assert command.__file__.startswith({str(site)!r})
assert str(FOLDER).startswith({str(site)!r}) and (FOLDER / "index.html").exists()
command.{function}()
"""
    command = [sys.executable, "-c", program, "--config=digits", *arguments(tiny_config())]
    env = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done: step 8 ") == 1
    (*_, last) = done.stdout.splitlines()  # started by no command; whether one of the environment is there is not known
    assert re.fullmatch(
        r"  (\S*ddpm-|python -m ddpm_jax\.commands\.)sample --workdir=runs/tiny --num_images=64 --seed=1", last
    )
    assert (tmp_path / "runs" / "tiny" / "samples.png").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}
