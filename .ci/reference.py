"""Which module stands on which page of the reference, and where on it; the tests read it, so it needs Python alone."""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]


def packages() -> dict[str, str]:
    """The description of each package by its name, from the table of docs/architecture.md."""
    text = (ROOT / "docs" / "architecture.md").read_text().partition("\n\n|")[2].partition("\n\n")[0]
    return dict(re.findall(r"^\| `(\w+)/?` \| (.*) \|$", text, re.MULTILINE))


def page(package: str) -> str:
    """The page of a package: a heading for it and one for each of its modules, for mkdocstrings."""
    sections = []
    for i, module in enumerate(modules(f"ddpm_jax.{package}")):
        options = f"heading_level: {1 + (i > 0)}"
        if source(module).name == "__init__.py":  # what it gathers from its modules is described there
            options += f", members: {own_names(module) or 'false'}"
        sections.append(f"::: {module}\n    options: {{{options}}}\n")
    return "\n".join(sections)


def modules(package: str) -> Iterator[str]:
    """The public modules of a package, itself first; what more of its modules build on comes earlier."""
    yield package
    file = source(package)
    if file.name != "__init__.py":
        return
    names = {path.stem for path in file.parent.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    public = [f"{package}.{name}" for name in sorted(names) if not name.startswith("_")]
    used = {name: [other for other in public if other != name and uses(name, other)] for name in public}
    users = dict.fromkeys(public, 0)
    for name in public:
        for other in closure(name, used):
            users[other] += 1
    for name in sorted(public, key=lambda name: (-users[name], name)):
        yield from modules(name)


def closure(name: str, used: dict[str, list[str]]) -> set[str]:
    """A module, the modules that it imports, the modules that those import, and so on."""
    found, below = {name}, set()
    while found:
        below |= found
        found = {other for one in found for other in used[one]} - below
    return below


def uses(module: str, other: str) -> bool:
    """Whether a module, or a module in it, imports from another one."""
    file = source(module)
    files: Iterable[Path] = file.parent.glob("*.py") if file.name == "__init__.py" else [file]
    nodes = [node for path in files for node in ast.walk(ast.parse(path.read_text()))]
    names = [
        f"{node.module}.{alias.name}." for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names
    ]
    return any(name.startswith(f"{other}.") for name in names)


def own_names(module: str) -> list[str]:
    """The public functions and classes that a file defines itself."""
    kinds = ast.FunctionDef | ast.ClassDef
    tree = ast.parse(source(module).read_text())
    return [node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]


def source(module: str) -> Path:
    """The file of a module."""
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
