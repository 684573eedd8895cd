"""Who may import whom: the order of the packages, and what `import ddpm_jax` must not drag in."""

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ddpm_jax

PACKAGE = Path(ddpm_jax.__file__).parent

TABLE = (PACKAGE.parent / "docs" / "architecture.md").read_text().partition("\n\n|")[2].partition("\n\n")[0]
RANK = {name: rank for rank, name in enumerate(re.findall(r"^\| `(\w+)/?` \|", TABLE, re.MULTILINE))}
HEAVY = {"tensorflow", "tensorflow_datasets", "torch", "grain", "orbax", "matplotlib"}

FILES = {str(path.relative_to(PACKAGE)): path for path in sorted(PACKAGE.rglob("*.py"))}


MATHEMATICS = [file for file in FILES if file.startswith("diffusion/")]


def package_of(file):
    """The first name below ddpm_jax: `diffusion/samplers/ddim.py` is part of `diffusion`; a program, of `commands`."""
    if Path(file).name == "__main__.py":
        return "commands"
    return Path(file).parts[0].removesuffix(".py")


def dotted(file):
    """The module that a file is: `diffusion.samplers` for `diffusion/samplers/__init__.py`."""
    return ".".join(Path(file).with_suffix("").parts).removesuffix(".__init__")


MODULES = {dotted(file): file for file in FILES}


def imports(path):
    """Absolute names of everything the file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}, line {node.lineno}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_modules(file):
    """Those of ours that a file imports, without the packages that lie on the way to them."""
    for name in imports(FILES[file]):
        if name.split(".")[0] == "ddpm_jax" and name != "ddpm_jax.__version__":
            below = name.removeprefix("ddpm_jax.")
            yield below if below in MODULES else below.rpartition(".")[0]


def test_every_package_is_in_the_table_of_the_architecture():
    assert {package_of(file) for file in FILES} - {"__init__"} == RANK.keys()


@pytest.mark.parametrize("file", [file for file in FILES if package_of(file) in RANK])
def test_a_module_imports_only_from_packages_before_its_own(file):
    package = package_of(file)
    for module in imported_modules(file):
        imported = module.split(".")[0]
        allowed = imported == package or RANK[imported] < RANK[package]
        assert allowed, f"{file} imports {module}, whose package the table does not name before {package}"


def test_no_two_modules_import_each_other():
    """On any path; a module that imports from the package that holds it is one of the two."""
    graph = {
        module: {other for other in imported_modules(file) if other in MODULES} for module, file in MODULES.items()
    }
    list(graphlib.TopologicalSorter(graph).static_order())  # raises of a cycle


@pytest.mark.parametrize("file", MATHEMATICS)
def test_the_mathematics_needs_nothing_but_jax(file):
    """And NumPy, and chex, which asserts shapes while a function is traced."""
    roots = {name.split(".")[0] for name in imports(FILES[file])}
    assert roots <= {"ddpm_jax", "jax", "numpy", "chex", *sys.stdlib_module_names}


@pytest.mark.parametrize(
    ("modules", "light_of"),
    [
        (["ddpm_jax", *(f"ddpm_jax.{dotted(file)}" for file in MATHEMATICS)], HEAVY),
        (
            ["ddpm_jax.jobs.train", "ddpm_jax.runs.sampling", "ddpm_jax.evaluation.evaluate"],
            HEAVY - {"orbax", "matplotlib"},
        ),
    ],
    ids=["mathematics", "programs"],
)
def test_importing_loads_no_heavy_package(modules, light_of):
    program = f"""
import importlib, sys
for module in {modules}:
    importlib.import_module(module)
print(*{light_of} & sys.modules.keys())
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == []


def test_training_knows_no_configuration():
    """The loop takes objects and hooks; `jobs/` makes them from a configuration."""
    for file in (PACKAGE / "training").glob("*.py"):
        text = file.read_text()
        assert "ConfigDict" not in text, file.name
        assert "ddpm_jax.config" not in text, file.name
