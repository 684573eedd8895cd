"""Who may import whom: the order of the modules, and what `import ddpm_jax` must not drag in."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ddpm_jax

PACKAGE = Path(ddpm_jax.__file__).parent

TABLE = (PACKAGE.parent / "docs" / "architecture.md").read_text().partition("\n\n|")[2].partition("\n\n")[0]
ROWS = [re.findall(r"`(\w+)/?`", line.split("|")[2]) for line in TABLE.splitlines()[2:]]
RANK = {module: rank for rank, module in enumerate(module for row in ROWS for module in row)}

MATHEMATICS = [module for row in ROWS[:4] for module in row]
HEAVY = {"tensorflow", "tensorflow_datasets", "torch", "grain", "orbax", "matplotlib"}

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


def test_every_module_is_in_the_table_of_the_architecture():
    assert {module_of(file) for file in FILES} - {"__init__"} == RANK.keys()
    assert MATHEMATICS[-1] == "bayes"


@pytest.mark.parametrize("file", [file for file in FILES if module_of(file) in RANK])
def test_a_module_imports_only_those_before_it(file):
    module = module_of(file)
    ours = [name.split(".") for name in imports(FILES[file]) if name.split(".")[0] == "ddpm_jax"]
    for imported in [name[1] for name in ours if name[1] in RANK]:
        allowed = imported == module or RANK[imported] < RANK[module]
        assert allowed, f"{file} imports {imported}, which the table does not name before {module}"


@pytest.mark.parametrize("file", [file for file in FILES if module_of(file) in MATHEMATICS])
def test_the_mathematics_needs_nothing_but_jax(file):
    """And NumPy, and chex, which asserts shapes while a function is traced."""
    roots = {name.split(".")[0] for name in imports(FILES[file])}
    assert roots <= {"ddpm_jax", "jax", "numpy", "chex", *sys.stdlib_module_names}


@pytest.mark.parametrize(
    ("modules", "light_of"),
    [
        (["ddpm_jax", *(f"ddpm_jax.{module}" for module in MATHEMATICS)], HEAVY),
        (["ddpm_jax.training", "ddpm_jax.sampling", "ddpm_jax.evaluation"], HEAVY - {"orbax", "matplotlib"}),
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
