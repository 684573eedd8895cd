"""`import ddpm_jax as dj`: every name of a notebook in one place, with its docstring, loaded when it is asked for."""

import ast
import inspect
import io
import os
import re
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from support.tiny import ROOT, save, tiny_config

import ddpm_jax as dj
from ddpm_jax import errors, factory
from ddpm_jax.config import flatten
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import plots

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory, quick_compilation):
    """Runs that know classes, and a classifier, of random parameters."""
    folder = tmp_path_factory.mktemp("runs")
    save(folder / "told", tiny_config(labels__num_classes=10, labels__dropout=0.5))
    save(folder / "classifier", tiny_config(task="classify", labels__num_classes=10))
    return folder


def test_every_name_completes_and_is_documented():
    for name in dir(dj):
        assert inspect.getdoc(getattr(dj, name)), name
    assert {"Run", "train", "experiment", "evaluate", "plots", "q_sample", "analytic"} <= set(dir(dj))


def test_type_checkers_see_every_name_that_is_loaded_later():
    tree = ast.parse((ROOT / "ddpm_jax" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    stated = sorted((node.module, alias.name) for node in block.body for alias in node.names)
    modules = [f"ddpm_jax.{module}".rpartition(".") for module in dj._MODULES.values()]
    loaded = [(f"ddpm_jax.{module}", name) for module, names in dj._LATER.items() for name in names]
    assert stated == sorted([*loaded, *((package, name) for package, _, name in modules)])
    assert [*dj._MODULES] == [name for _, _, name in modules]


def test_all_names_everything_that_is_imported_or_loaded_later():
    tree = ast.parse((ROOT / "ddpm_jax" / "__init__.py").read_text())
    ours = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module.startswith("ddpm_jax.")]
    imported = [alias.name for node in ours for alias in node.names]
    assert sorted(dj.__all__) == sorted([*imported, *dj._HOME, *dj._MODULES])
    assert set(dj.__all__) <= set(dir(dj))


def test_jobs_are_loaded_when_they_are_asked_for():
    program = "import sys, ddpm_jax as dj; print('ddpm_jax.runs.run' in sys.modules); dj.Run; print(dj.Run.__name__)"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.split() == ["False", "Run"], run.stderr


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'ddpm_jax' has no attribute 'trian'"):
        dj.trian  # noqa: B018


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("[!_]*.py")), ids=lambda path: path.stem)
def test_an_experiment_is_its_file(path):
    config = dj.experiment(path.stem)
    assert config.is_locked
    assert config.name == path.stem
    assert flatten(config) == flatten(dj.experiment(path.stem))


def test_the_readme_s_library_snippet_draws_digits():
    """With the exact denoiser a chain from noise ends at digits of the data, one from t = 100 at the digit it hid."""
    snippet = re.search(r"## Use it as a library\n\n```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names = {}
    exec(snippet.group(1), names)
    images, x, x_0 = (np.asarray(names[name]) for name in ("images", "x", "x_0"))
    nearest = np.abs(x[:, None] - images).max(axis=(2, 3, 4)).min(axis=1)
    assert np.all(nearest < 0.05)
    np.testing.assert_allclose(x_0, images[:8], atol=0.05)


def test_an_experiment_that_is_not_there_is_one_line():
    with pytest.raises(UserError, match=r"^there is no experiment 'digit'; did you mean 'digits'\?$"):
        dj.experiment("digit")
    for name in ("imagenet", "__init__", "../configs/digits", "", "xxxx"):
        with pytest.raises(UserError, match=rf"^there is no experiment {name!r}; "):
            dj.experiment(name)


def test_an_experiment_is_found_by_its_name_alone(monkeypatch, tmp_path):
    """Whatever lies in the current folder and on the import path."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "__init__.py").write_text("")
    (tmp_path / "configs" / "base.py").write_text("raise AssertionError('the wrong file')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *(path for path in sys.path if path not in ("", str(ROOT)))])
    before = list(sys.path)
    assert dj.experiment("celeba").data.name == "celeb_a"
    assert sys.path == before


def test_the_version_is_the_package_s():
    assert re.fullmatch(r"\d+\.\d+\.\d+", dj.__version__)


def test_a_mistake_in_a_notebook_is_one_line():
    assert errors.UserError("do this")._render_traceback_() == ["error: do this"]


@pytest.mark.parametrize(
    ("folder", "started", "expected"),
    [
        (".", "train.py", "python sample.py"),
        (".", "", "python sample.py"),
        (".", f"{ROOT}/ddpm_jax/convert/__main__.py", "python sample.py"),
        ("notebooks", "../train.py", "python ../sample.py"),
        ("/", f"{ROOT}/train.py", f"python {min(str(ROOT)[1:], str(ROOT), key=len)}/sample.py"),
        ("notebooks", f"{ROOT}/ddpm_jax/convert/__main__.py", "python -m ddpm_jax.commands.sample"),
    ],
)
def test_a_program_of_a_clone_is_typed_so_that_it_runs_from_here(folder, started, expected, monkeypatch):
    monkeypatch.chdir(ROOT / folder)
    monkeypatch.setattr(sys, "argv", [started])
    assert errors.program("sample") == expected


def test_a_module_is_typed_so_that_python_finds_it(monkeypatch, tmp_path):
    prepare = "python -m ddpm_jax.data.prepare"
    monkeypatch.chdir(tmp_path)
    for started, expected in [
        (f"{ROOT}/train.py", f"PYTHONPATH={ROOT} {prepare}"),
        ("ddpm-train", prepare),
        (f"{ROOT}/ddpm_jax/convert/__main__.py", prepare),
    ]:
        monkeypatch.setattr(sys, "argv", [started])
        assert errors.module("data.prepare") == expected
    monkeypatch.setattr(sys, "argv", [f"{ROOT}/train.py"])
    monkeypatch.setattr(errors, "_CLONE", tmp_path)  # the folder of packages
    assert errors.module("data.prepare") == prepare
    monkeypatch.undo()
    monkeypatch.chdir(ROOT)
    assert errors.module("data.prepare") == prepare


def test_a_program_elsewhere_is_not_the_script_of_its_name_there(monkeypatch, tmp_path):
    """The user's own train.py in the current folder, or beside the package."""
    (tmp_path / "train.py").write_text("import torch")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(ROOT / "sample.py")])
    (python, script) = errors.program("train").split()
    assert (python, (tmp_path / script).resolve()) == ("python", ROOT / "train.py")
    monkeypatch.setattr(errors, "_CLONE", tmp_path)
    assert errors.program("train") != "python train.py"


def test_a_program_is_named_where_the_current_folder_is_gone(monkeypatch, tmp_path):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setattr(sys, "argv", ["sample.py"])
    assert errors.program("train") == f"python {ROOT}/train.py"
    assert errors.module("data.prepare") == f"PYTHONPATH={ROOT} python -m ddpm_jax.data.prepare"


def test_an_installed_program_is_named_so_that_the_shell_finds_it(monkeypatch, tmp_path):
    for folder in ("bin", "other bin"):
        (tmp_path / folder).mkdir()
        for name in ("ddpm-train", "ddpm-sample"):
            (tmp_path / folder / name).write_text("#!/bin/sh")
            (tmp_path / folder / name).chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "bin" / "ddpm-train")])
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert errors.program("sample") == "ddpm-sample"
    monkeypatch.setenv("PATH", "")
    assert errors.program("sample") == f"{tmp_path}/bin/ddpm-sample"
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "other bin" / "ddpm-train")])
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))  # which has those of another environment
    assert errors.program("sample") == f"'{tmp_path}/other bin/ddpm-sample'"
    monkeypatch.setattr(sys, "argv", [""])  # a notebook, of an environment without scripts
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(errors, "_CLONE", tmp_path)
    monkeypatch.setenv("PATH", "")
    assert errors.program("sample") == "python -m ddpm_jax.commands.sample"
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert errors.program("sample") == "ddpm-sample"


def test_a_program_runs_as_a_module(monkeypatch, tmp_path):
    command = [sys.executable, "-m", "ddpm_jax.commands.sample", "--workdir=none"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    train = "python -m ddpm_jax.commands.train --workdir=none"
    assert done.stderr.splitlines()[-1] == f"error: there is no run in none; train one with: {train}"


def test_settings_of_a_run_are_checked_by_name_and_kind(workdirs, tmp_path):
    run = dj.Run(workdirs / "told")
    with pytest.raises(UserError, match=r"^there is no sampling setting 'samplr'; did you mean 'sampler'\?$"):
        run.configure(samplr="ddim")
    with pytest.raises(UserError, match=r"^eta='much' must be of type float$"):
        run.configure(eta="much")
    for settings, said in [
        ({"sampler": "dimm"}, r"^sampler='dimm' is not one of: ancestral, ddim, .*; did you mean 'ddim'\?$"),
        ({"eta": 0.5, "grid": "log"}, r"^grid='log' is not one of: "),
        ({"eta": 0.5, "labels": "x"}, r"^labels=x: the classes of this model have no known names"),
        ({"eta": 2.0}, r"^eta=2\.0 must be at least 0 and at most 1$"),
        ({"eta": 0.5, "variance": "bogus"}, r"^variance='bogus' is not one of: large, small, learned, analytic$"),
        ({"eta": 0.5, "variance": "learned"}, "^this model has no learned variance"),
        ({"eta": 0.5, "num_steps": -3}, "^num_steps=-3 must be 0 or a positive number$"),
        ({"eta": 0.5, "num_steps": 10**6}, "^cannot make a chain of 1000000 steps: "),
        ({"eta": 0.5, "corrector_steps": -1}, "^corrector_steps=-1 must be 0 or a positive number$"),
        ({"eta": 0.5, "labels": [0.9]}, r"^labels must be names or whole numbers, not 0\.9$"),
        ({"eta": 0.5, "labels": [True]}, r"^labels must be names or whole numbers, not True$"),
        ({"eta": 0.5, "labels": ["1,2"]}, r"^labels must be names or whole numbers, not '1,2'$"),
        ({"eta": 0.5, "labels": []}, "^labels must be names or whole numbers, at least one; "),
        ({"eta": 0.5, "labels": ["cat", "dog"]}, "^labels=cat,dog: the classes of this model have no known names"),
    ]:
        with pytest.raises(UserError, match=said):
            run.configure(**settings)
        assert run.config.sample.eta == 0  # nothing is changed
    assert run.configure(labels=7).config.sample.labels == "#7"
    for three in (range(3), np.arange(3), jnp.arange(3), ["0", 1, "#2"]):
        asked = run.configure(labels=three, guidance_scale=2)
        assert asked.labels() == (0, 1, 2)
    with pytest.raises(UserError, match=r"^guidance_scale=3 needs a model trained both with and without the class, "):
        dj.Run(save(tmp_path, tiny_config())).configure(guidance_scale=3)
    with pytest.raises(UserError, match=r"^params='emma' is not one of: ema, raw; did you mean 'ema'\?$"):
        dj.Run(workdirs / "told", params="emma")


def test_what_is_given_in_place_of_an_object_is_one_line(workdirs, tmp_path):
    with pytest.raises(UserError, match=r"^the configuration must be a ConfigDict, as experiment\('digits'\) returns"):
        dj.train("digits", tmp_path)
    with pytest.raises(UserError, match=r"^evaluate needs an opened run: Run\('runs/x'\)$"):
        dj.evaluate("runs/x", ["bpd"])
    run = dj.Run(workdirs / "told")
    with pytest.raises(UserError, match=r"^the metrics must be a list of names: \['bpd'\]$"):
        dj.evaluate(run, "bpd")
    for count in (0, -1, 1.5):
        with pytest.raises(UserError, match=rf"^num_images={count} must be a whole number of at least 1$"):
            run.sample(count)
    with pytest.raises(UserError, match=r"^num_frames=0 must be"):
        run.trajectory(1, num_frames=0)
    with pytest.raises(UserError, match=r"^there is no run in \S+/tol; did you mean \S+/told\? Or train one with: "):
        dj.Run(workdirs / "tol")


def test_another_scale_or_class_compiles_nothing(workdirs, monkeypatch):
    made, traces = factory.denoiser, []

    def counted(*args, **options):
        with_params = made(*args, **options)
        return lambda *args: traces.append(args) or with_params(*args)

    monkeypatch.setattr(factory, "denoiser", counted)
    run = dj.Run(workdirs / "told").configure(labels=7, guidance_scale=2)
    before = run.chain(3)
    first = before(run.params, dj_key(), indices=np.arange(8))
    traced = len(traces)
    after = run.configure(labels=[1, 2], guidance_scale=3).chain(3)
    assert after.compiled is before.compiled
    assert (after.columns, before.columns) == (2, None)
    assert not np.array_equal(after(run.params, dj_key(), indices=np.arange(8)), first)
    np.testing.assert_array_equal(before(run.params, dj_key(), indices=np.arange(8)), first)
    assert len(traces) == traced
    assert run.configure(guidance_scale=1).chain(3).compiled is not before.compiled


def test_a_chain_stays_what_it_was_made(workdirs):
    """Even where the run is set otherwise before the chain is first taken."""
    run = dj.Run(workdirs / "told").configure(labels=7, sampler="ddim")
    expected = dj.Run(workdirs / "told").configure(labels=7, sampler="ddim").sample(8, num_steps=3)
    chain = run.chain(3)
    run.configure(clip_x_0=False, guidance_scale=5)
    drawn = chain(run.params, dj_key(), indices=np.arange(8))
    np.testing.assert_array_equal(dj.to_uint8(drawn), expected)


@pytest.mark.slow
def test_another_guide_takes_the_place_of_the_first(workdirs):
    classifier = dj.Run(workdirs / "classifier")
    run = dj.Run(workdirs / "told").configure(labels=7)
    once = run.guide(classifier).sample(8, num_steps=3)
    np.testing.assert_array_equal(run.guide(classifier).sample(8, num_steps=3), once)


def test_a_classifier_tells_classes_and_a_denoiser_does_not(workdirs):
    x, _ = dj.load(dj.Digits("test"), 5)
    log_probs = dj.Run(workdirs / "classifier").log_probs(x, t=3)
    assert log_probs.shape == (1, 5, 10)
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=-1), 1, rtol=1e-5)
    with pytest.raises(UserError, match=r"is the run of a denoiser, which does not predict classes$"):
        dj.Run(workdirs / "told").log_probs(x)


@pytest.mark.slow
def test_an_interpolation_as_an_array_is_the_one_in_the_file(workdirs, tmp_path):
    ends, _ = dj.load(dj.Digits("test"), 2)
    for name, end in zip("ab", ends, strict=True):
        dj.images.save_png(tmp_path / f"{name}.png", dj.to_uint8(end))
    run = dj.Run(workdirs / "told")
    images = dj.editing.interpolation(run, *ends, num_images=3, num_steps=4)
    dj.editing.interpolate(
        run, [tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "way.png", num_images=3, num_steps=4
    )
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "way.png")), dj.images.tile_images(images, columns=3)[..., 0]
    )


def test_what_a_flow_encodes_it_decodes(workdirs):
    x, _ = dj.load(dj.Digits("test"), 3)
    encode, decode = dj.editing.flow(dj.Run(workdirs / "told").configure(clip_x_0=False), num_steps=19)
    np.testing.assert_allclose(decode(encode(x)), x, atol=0.03)


def test_a_source_is_loaded_in_its_order():
    x, labels = dj.load(dj.Digits("test"), 4)
    assert (x.dtype, labels.tolist()) == (np.float32, [dj.Digits("test")[i]["label"] for i in range(4)])
    np.testing.assert_array_equal(dj.to_uint8(x[3]), dj.Digits("test")[3]["image"])
    assert len(dj.load(dj.Digits("test"))[0]) == 500


def test_eight_bits_come_back():
    values = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(dj.to_uint8(dj.from_uint8(values)), values)


def test_a_picture_is_the_grid():
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    for given in (images, dj.from_uint8(images)):
        np.testing.assert_array_equal(
            np.asarray(dj.picture(given, columns=2)), dj.images.tile_images(images, columns=2)
        )


def test_a_figure_shows_itself_opaque_on_white_in_any_style():
    import matplotlib as mpl

    with mpl.rc_context({"figure.facecolor": "black", "text.color": "white", "savefig.transparent": True}):
        figure, [axes] = plots.panels(1)
        axes.set(title="dark on white")
        shown = Image.open(io.BytesIO(figure._repr_png_()))
    pixels = np.asarray(shown.convert("RGBA"))
    assert pixels[..., 3].min() == 255
    np.testing.assert_array_equal(pixels[0, 0, :3], 255)
    assert pixels[:25, ..., :3].min() < 100


def dj_key():
    """The key of seed 0."""
    import jax

    return jax.random.key(0)
