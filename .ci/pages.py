"""Hooks of mkdocs: the pages of the site, their links into the repository, and their equations.

The pages lie as in the repository (`README.md`, `docs/notes.md`), so that a link between two of them is the same in
both. The reference has a page per package, in the order of the table of docs/architecture.md, with a section per
module (`reference.py`).
"""

import html
import posixpath
import re
import tomllib
from pathlib import Path

import griffe
import reference
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
GUIDES = (
    "howto",
    "configuration",
    "fast",
    "metrics",
    "notes",
    "architecture",
    "scale",
    "operating",
    "performance",
    "weights",
    "agreement",
    "benchmarks",
)
KOREAN = ("README", "notes", "glossary")
LINK = re.compile(r"(?<=\]\()(?P<path>[^():#\s]+)(?P<anchor>#[^()\s]*)?(?=\))")
EQUATION = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)

log = get_plugin_logger("pages")


def overview() -> str:
    """The first page of the reference: the packages, and the names of `ddpm_jax` itself."""
    loader = griffe.GriffeLoader(search_paths=[ROOT])  # it reads the source and imports nothing
    package = loader.load("ddpm_jax")
    loader.resolve_aliases()
    lines = ["# Reference", "", "| package | what is in it |", "|---|---|"]
    lines += [f"| [`{name}`]({name}.md) | {text} |" for name, text in reference.packages().items()]
    lines += [
        "",
        "The names of the common path, after `import ddpm_jax as dj`:",
        "",
        "| name | what it is |",
        "|---|---|",
    ]
    for name in sorted(map(str, package.exports or [])):
        member = package[name]
        member = member.final_target if member.is_alias else member
        first = member.docstring.value.partition("\n")[0] if member.docstring else ""
        lines.append(f"| [`dj.{name}`][{member.path}] | {first.replace('|', '&#124;')} |")
    return "\n".join(lines) + "\n"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the address of the repository, and the navigation."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    config.repo_url, config.repo_name = project["urls"]["Repository"], project["name"]
    config.site_description = project["description"]
    config.nav = [
        {"Home": "README.md"},
        {"Guides": ["docs/README.md", *(f"docs/{name}.md" for name in GUIDES)]},
        {"Reference": ["reference/index.md", *({name: f"reference/{name}.md"} for name in reference.packages())]},
        {"Project": ["CONTRIBUTING.md", "CHANGELOG.md"]},
        {"한국어": [f"docs/ko/{name}.md" for name in KOREAN]},
    ]
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Puts every page where the repository has it, and adds the reference."""
    found = []
    for file in files:
        if file.abs_src_path and file.src_dir == config.docs_dir and file.src_uri != "site.css":
            file = File.generated(config, f"docs/{file.src_uri}", abs_src_path=file.abs_src_path)
        found.append(file)
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        found.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    found.append(File.generated(config, "reference/index.md", content=overview()))
    for name in reference.packages():
        found.append(File.generated(config, f"reference/{name}.md", content=reference.page(name)))
    return Files(found)


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replaces the links to files that are not pages of the site by links to the repository."""

    def target(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page.file.src_uri), link["path"]))
        if files.get_file_from_path(path) or not (ROOT / path).exists():
            return link[0]  # mkdocs warns of a file that is in neither
        return f"{config.repo_url}/{'tree' if (ROOT / path).is_dir() else 'blob'}/HEAD/{path}{link['anchor'] or ''}"

    return LINK.sub(target, markdown)


def on_page_content(content: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns every equation into MathML, which browsers draw without a script."""
    del config, files

    def equation(found: re.Match[str]) -> str:
        latex = html.unescape(found[1]).strip()
        mathml = re.sub(r"(?<=<mi>log</mi>)(?=<m[isu])", '<mspace width="0.17em"/>', convert(latex, display="block"))
        if "\\" in mathml:
            log.warning("%s: an equation has an unknown command: %s", page.file.src_uri, latex)
        return f'<div class="arithmatex">{mathml}</div>'

    return EQUATION.sub(equation, content)


def on_post_page(output: str, *, page: Page, config: MkDocsConfig) -> str:
    """Says in which language a page is, for the breaking of lines and for readers of screens."""
    del config
    is_korean = page.file.src_uri.startswith("docs/ko/")
    return output.replace('<html lang="en"', '<html lang="ko"', 1) if is_korean else output
