"""Who may import whom: the order of the modules, and what `import ddpm_jax` must not drag in."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ddpm_jax

PACKAGE = Path(ddpm_jax.__file__).parent

# A module imports only from rows above its own; a package's files also from one another.
ROWS = [row.split() for row in (
    "errors arrays",
    "schedule gaussian",
    "prediction",
    "oracles guidance",
    "samplers",
    "losses likelihood",
    "models",
    "data",
    "metrics",
    "parallel images program",
    "state config",
    "step checkpoint logging",
    "build",
    "sampling",
    "training evaluation",
)]  # fmt: skip
RANK = {module: rank for rank, row in enumerate(ROWS) for module in row}

MATHEMATICS = [module for row in ROWS[: RANK["losses"] + 1] for module in row]
HEAVY = {"tensorflow", "tensorflow_datasets", "torch", "grain", "orbax"}

FILES = {str(path.relative_to(PACKAGE)): path for path in sorted(PACKAGE.rglob("*.py"))}


def module_of(file):
    """The first name below ddpm_jax: `samplers/ddim.py` is part of `samplers`."""
    return Path(file).parts[0].removesuffix(".py")


def imports(path):
    """Absolute names of everything the file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}, line {node.lineno}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("file", [file for file in FILES if file != "__init__.py"])
def test_a_module_imports_only_from_rows_above(file):
    module = module_of(file)
    assert module in RANK, f"give {module} a row in the table of this test"
    ours = [name.split(".") for name in imports(FILES[file]) if name.split(".")[0] == "ddpm_jax"]
    for _, imported, *_ in ours:
        allowed = imported == module or RANK[imported] < RANK[module]
        assert allowed, f"{file} imports {imported}, which is not in a row above {module}"


@pytest.mark.parametrize("file", [file for file in FILES if module_of(file) in MATHEMATICS])
def test_the_mathematics_needs_nothing_but_jax(file):
    roots = {name.split(".")[0] for name in imports(FILES[file])}
    assert roots <= {"ddpm_jax", "jax", "numpy", *sys.stdlib_module_names}


@pytest.mark.parametrize("modules", [["ddpm_jax"], [f"ddpm_jax.{m}" for m in MATHEMATICS]], ids=["all", "maths"])
def test_importing_loads_no_heavy_package(modules):
    program = f"""
import importlib, importlib.util, sys
for module in {modules}:
    if importlib.util.find_spec(module):
        importlib.import_module(module)
print(*{HEAVY} & sys.modules.keys())
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == []
