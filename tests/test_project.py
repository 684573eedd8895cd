"""What surrounds the code: the reference, the workflows and templates of the repository, the citation."""

import ast
import importlib.util
import os
import re
import shlex
import tomllib

import pytest
import yaml
from support.tiny import ROOT
from test_imports import MODULES, RANK

import ddpm_jax as dj
from ddpm_jax.evaluation.evaluate import METRICS
from ddpm_jax.evaluation.features import NAMES
from ddpm_jax.evaluation.quality import QUALITY

YAML = sorted([*(ROOT / ".github").rglob("*.yml"), ROOT / ".pre-commit-config.yaml", ROOT / "CITATION.cff"])
WORKFLOWS = sorted((ROOT / ".github" / "workflows").iterdir())
CENTRAL = [
    "q_sample",
    "q_step",
    "q_posterior",
    "schedules.linear",
    "schedules.cosine",
    "losses.l_simple",
    "losses.l_vlb",
    "likelihood.prior_term_nats",
    "likelihood.bound_term",
    "likelihood.bound_terms",
    "guidance.classifier_free",
    "guidance.classifier_guided",
    "edm_denoiser",
    "bayes.elbo_nats",
    "p_sample",
    "samplers.p_mean_log_var",
    "samplers.ddim_step",
    "samplers.heun",
    "samplers.dpm_solver_pp_2m",
    "samplers.langevin_step",
]


@pytest.fixture(scope="module")
def reference():
    """The module that says what stands in the reference."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / ".ci" / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def runs(workflow):
    """The commands of a workflow, with every value of a matrix."""
    for job in workflow["jobs"].values():
        matrix = job.get("strategy", {}).get("matrix", {})
        for step in job["steps"]:
            given = re.search(r"\$\{\{ matrix\.(\w+) \}\}", step.get("run", ""))
            for value in matrix[given[1]] if given else [""]:
                yield re.sub(r"\$\{\{.*?\}\}", value, step["run"]) if "run" in step else step["uses"]


def test_every_public_module_has_its_place_in_the_reference(reference):
    assert list(reference.packages()) == list(RANK)
    sections = [name for package in RANK for name in re.findall(r"^::: (\S+)$", reference.page(package), re.MULTILINE)]
    public = {f"ddpm_jax.{module}" for module in MODULES if module != "__init__" and ".__" not in module}
    assert sorted(sections) == sorted(public)


def test_a_module_of_the_reference_comes_after_those_that_it_imports(reference):
    modules = list(reference.modules("ddpm_jax.diffusion"))
    for module in modules:
        nodes = ast.walk(ast.parse(reference.source(module).read_text()))
        imported = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        if reference.source(module).name != "__init__.py":
            assert all(modules.index(other) < modules.index(module) for other in imported & set(modules)), module


@pytest.mark.parametrize("name", CENTRAL)
def test_a_central_function_has_its_equation_and_a_link_to_its_source(name):
    """In a body below one line that can be read by itself."""
    function = dj
    for part in name.split("."):
        function = getattr(function, part)
    first, blank, *body = function.__doc__.split("\n")
    assert first.endswith(".")
    assert blank == ""
    text = "\n".join(body)
    assert re.search(r"^ *\$\$ [^$]+ \$\$$", text, re.MULTILINE)
    assert re.search(r"\[[A-Z].*? \d{4}\]\(https://arxiv\.org/abs/\d{4}\.\d{5}\)", text)


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_a_file_of_the_repository_is_valid_yaml(path):
    assert isinstance(yaml.safe_load(path.read_text()), dict)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_names_commands_that_exist(path):
    for command in runs(yaml.safe_load(path.read_text())):
        program, *arguments = shlex.split(command)
        if program.startswith(".ci/"):
            assert os.access(ROOT / program, os.X_OK), command
        elif program == "pip":
            assert all((ROOT / name).exists() for name in arguments if name.endswith(".txt")), command
        else:
            assert program == "pytest" or re.fullmatch(r"actions/[a-z-]+@v\d+", program), command


def test_the_workflows_run_every_part_of_the_checks_on_every_python():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "checks.yml").read_text())["jobs"]
    assert {"lint", "tests", "docs", "wheel"} == set(jobs)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    prefix = "Programming Language :: Python :: 3."
    pythons = [name.split()[-1] for name in project["classifiers"] if name.startswith(prefix)]
    assert jobs["tests"]["strategy"]["matrix"]["python"] == pythons
    complete = (ROOT / ".ci" / "run").read_text()
    for part in ("lint", "docs", "wheel"):
        assert jobs[part]["steps"][-1 if part != "docs" else -2]["run"] == f".ci/{part}"
        assert f".ci/{part}" in complete
    assert complete.splitlines()[-1].startswith("pytest ")


def test_a_warning_ends_the_building_of_the_site():
    """`mkdocs build --quiet` would drop warnings before they are counted."""
    command = (ROOT / ".ci" / "docs").read_text().splitlines()[-1]
    assert "mkdocs build --strict" in command
    assert "quiet" not in command


def test_the_citation_has_the_version_and_licence_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (citation["version"], citation["license"]) == (dj.__version__, project["license"])
    assert citation["authors"] == [{"name": "The ddpm_jax authors"}]
    assert citation["keywords"] == project["keywords"]


def test_the_page_on_the_metrics_has_every_metric_and_every_extractor():
    page = (ROOT / "docs" / "metrics.md").read_text()
    listed, paragraphs = page.partition("```sh")[0], re.findall(r"^\*\*(`\w+`.*?)\*\*", page, re.MULTILINE)
    for name in (*METRICS, *QUALITY):
        assert f"`{name}`" in listed, name
        assert any(f"`{name}`" in head for head in paragraphs) or f"and `{name}`" in page, name
    for name in NAMES:
        assert re.search(rf"^\|[^|]*`{name}`", page, re.MULTILINE), name
    for name, metric in QUALITY.items():
        row = next(line for line in listed.splitlines() if line.startswith("|") and f"`{name}`" in line)
        assert f"`{metric.features}`" in row, name
