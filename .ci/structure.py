"""Prints the measures of the house and holds them to their limits: `python .ci/structure.py`.

Exits with 1, and names the places, where a limit is broken.
"""

import ast
import graphlib
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from test_imports import FILES, MODULES, RANK, imported_modules, package_of  # noqa: E402

MAX_FILE, MAX_FUNCTION, MAX_TOP = 350, 60, 16  # lines, lines, names
MAX_SCALE, MAX_SAMPLER = 5, 3  # functions from the flag to the network
PROGRAMS = ("*.py", "ddpm_jax/**/*.py", "configs/*.py", "benchmarks/**/*.py", "notebooks/*.py", ".ci/*.py")
ARRAYS = {"Array", "ArrayLike", "ndarray"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.AST) -> Iterator[Function]:
    """Every function of a file, methods and nested ones included."""
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def public(tree: ast.Module) -> Iterator[Function]:
    """The public functions of a file and methods of its public classes, without those inside functions."""
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    for node in [*tree.body, *(member for cls in classes for member in cls.body)]:
        if isinstance(node, Function) and not node.name.startswith("_"):
            yield node


def is_annotated(function: Function) -> bool:
    """Whether all parameters but `self` and `cls`, and what is returned, have a type."""
    given = function.args
    parameters = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    named = [p for p in parameters if p is not None and p.arg not in ("self", "cls")]
    return function.returns is not None and all(p.annotation is not None for p in named)


def lacks_shapes(function: Function) -> bool:
    """Whether a function takes or returns arrays and its docstring names no shape."""
    given = function.args
    types = [p.annotation for p in [*given.posonlyargs, *given.args, *given.kwonlyargs]] + [function.returns]
    names = {
        node.attr if isinstance(node, ast.Attribute) else node.id
        for kind in types
        if isinstance(kind, ast.Name | ast.Attribute)
        for node in [kind]
    }
    return bool(names & ARRAYS) and "[" not in (ast.get_docstring(function) or "")


def upward_imports() -> list[str]:
    """Imports from a package that the table of the architecture does not name before."""
    found = []
    for file in FILES:
        package = package_of(file)
        for module in imported_modules(file):
            other = module.split(".")[0]
            if other != package and RANK.get(other, -1) >= RANK.get(package, len(RANK)):
                found.append(f"{file} imports {module}")
    return found


def cycles() -> list[str]:
    """Modules that import each other, on any path."""
    graph = {
        module: {other for other in imported_modules(file) if other in MODULES} for module, file in MODULES.items()
    }
    try:
        list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        return [" -> ".join(error.args[1])]
    return []


def readers(trees: dict[Path, ast.Module], name: str) -> list[str]:
    """The functions of the package that read a key of `config.sample`, or the flag that sets it, of a chain.

    `editing.flow` is left out: an interpolation has an encoder and no chain.
    """
    found = []
    for path, tree in trees.items():
        if not path.is_relative_to(ROOT / "ddpm_jax") or path.name == "editing.py":
            continue
        for function in functions(tree):
            nested = {id(n) for f in functions(function) if f is not function for n in ast.walk(f)}
            nodes = [node for node in ast.walk(function) if id(node) not in nested]
            keys = [n for n in nodes if isinstance(n, ast.Attribute) and n.attr == name and _is_sample(n.value)]
            keys += [
                n for n in nodes if isinstance(n, ast.keyword) and n.arg == name and path.parent.name == "commands"
            ]
            keys += [n for n in nodes if isinstance(n, ast.Subscript) and ast.unparse(n.slice) == repr(name)]
            if keys:
                found.append(f"{path.relative_to(ROOT)}:{function.lineno} {function.name}")
    return found


def _is_sample(node: ast.expr) -> bool:
    """Whether an expression is `config.sample`, or the name `part` that stands for it."""
    return (isinstance(node, ast.Attribute) and node.attr == "sample") or (
        isinstance(node, ast.Name) and node.id == "part"
    )


def main() -> int:
    """Prints a line per measure; returns the exit status."""
    trees = {path: ast.parse(path.read_text()) for pattern in PROGRAMS for path in sorted(ROOT.glob(pattern))}
    every = [
        (f"{path.relative_to(ROOT)}:{f.lineno} {f.name}", path, f)
        for path, tree in trees.items()
        for f in functions(tree)
    ]
    top = sorted(path.name for path in (ROOT / "ddpm_jax").iterdir() if path.name != "__pycache__")
    bare = [name for name, _, f in every if not is_annotated(f)]
    long_files = [str(path.relative_to(ROOT)) for path in trees if len(path.read_text().splitlines()) > MAX_FILE]
    long_functions = [name for name, _, f in every if (f.end_lineno or f.lineno) - f.lineno + 1 > MAX_FUNCTION]
    mathematics = [
        (f"{path.relative_to(ROOT)}:{f.lineno} {f.name}", f)
        for path, tree in trees.items()
        if path.is_relative_to(ROOT / "ddpm_jax" / "diffusion")
        for f in public(tree)
    ]
    measures = {
        f"of {len(every)} functions, not annotated": bare,
        f"files over {MAX_FILE} lines": long_files,
        f"functions over {MAX_FUNCTION} lines": long_functions,
        "imports upwards": upward_imports(),
        "import cycles": cycles(),
        "public functions of arrays in diffusion/ whose docstring lacks a shape": [
            n for n, f in mathematics if lacks_shapes(f)
        ],
        f"names in ddpm_jax/ above {MAX_TOP}": top[MAX_TOP:],
        f"functions above {MAX_SCALE} that read guidance_scale": readers(trees, "guidance_scale")[MAX_SCALE:],
        f"functions above {MAX_SAMPLER} that read the sampler's name": readers(trees, "sampler")[MAX_SAMPLER:],
    }
    for measure, places in measures.items():
        print(f"{len(places):5}  {measure}", *places[:40], sep="\n         ")
    return int(any(measures.values()))


if __name__ == "__main__":
    sys.exit(main())
