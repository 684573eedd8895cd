"""Runs that are moved, copied or trained anew, and the samples that belong to them."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from support.tiny import random_state, save, tiny_config

import ddpm_jax as dj
from ddpm_jax.config import to_json
from ddpm_jax.errors import UserError
from ddpm_jax.jobs import train
from ddpm_jax.runs.run import Run
from ddpm_jax.training.checkpoint import Checkpoints

pytestmark = pytest.mark.usefixtures("quick_compilation")

SHORT = {"diffusion__num_timesteps": 4}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, quick_compilation):
    """A run of random parameters at step 3."""
    return save(tmp_path_factory.mktemp("runs") / "my run", tiny_config(**SHORT), steps=(3,))


@pytest.mark.slow
def test_a_folder_of_samples_is_continued_by_the_run_wherever_it_lies(trained, tmp_path, monkeypatch):
    """Moved, copied, given relative, guided by a classifier that is moved too."""
    digits = {"labels__num_classes": 10, "task": "classify", **SHORT}
    shutil.copytree(trained, tmp_path / "a")
    save(tmp_path / "classifier_a", tiny_config(**digits))

    def guided(name, classifier):
        return Run(name).guide(Run(classifier)).configure(labels=3)

    dj.sample_run(guided(tmp_path / "a", tmp_path / "classifier_a"), f"{tmp_path}/a/s/", num_images=1, seed=0)
    first = (tmp_path / "a" / "s" / "000000.png").stat().st_mtime_ns
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "classifier_a").rename(tmp_path / "c")
    monkeypatch.chdir(tmp_path)
    dj.sample_run(guided("b", "c"), "b/s/", num_images=2, seed=0)
    assert sorted(path.name for path in Path("b/s").iterdir()) == ["000000.png", "000001.png", "sampling.json"]
    assert Path("b/s/000000.png").stat().st_mtime_ns == first
    assert str(tmp_path) not in Path("b/s/sampling.json").read_text()
    other = save(tmp_path / "d", tiny_config(**digits), steps=(2,))
    with pytest.raises(UserError, match=r"^b/s holds other samples: classifier is '\w{16}' there and '\w{16}' here;"):
        dj.sample_run(guided("b", other), "b/s/", num_images=2, seed=0)


def test_a_folder_of_samples_is_not_continued_by_a_run_that_was_trained_anew(tmp_path):
    """Under the same name, to the same step."""
    config = tiny_config(**SHORT)
    save(tmp_path / "run", config, steps=(3,))
    dj.sample_run(Run(tmp_path / "run"), f"{tmp_path}/s/", num_images=1, seed=0)
    shutil.rmtree(tmp_path / "run")
    with Checkpoints(tmp_path / "run") as checkpoints:
        checkpoints.save(random_state(config, step=4).replace(step=random_state(config, step=3).step), to_json(config))
    with pytest.raises(UserError, match=r"/s holds other samples: network is '\w{16}' there and '\w{16}' here; choose"):
        dj.sample_run(Run(tmp_path / "run"), f"{tmp_path}/s/", num_images=2, seed=0)


def test_a_digest_tells_networks_apart_by_their_numbers_and_settings(trained, tmp_path):
    run = Run(trained)
    shutil.copytree(trained, tmp_path / "copy")
    assert run.digest() == Run(tmp_path / "copy").digest()
    assert run.digest() != Run(trained, params="raw").digest()
    before = run.digest()
    run.config.diffusion.beta_end = 0.5
    assert run.digest() != before
    off = Run(trained)
    leaves, tree = jax.tree.flatten(off.params)
    last = np.array(leaves[-1])
    last.flat[-1] = np.nextafter(last.flat[-1], np.inf)  # one bit of one number
    off.params = jax.tree.unflatten(tree, [*leaves[:-1], last])
    assert off.digest() != Run(trained).digest()


@pytest.mark.slow
def test_a_moved_run_resumes_and_finds_its_moved_data(tmp_path, monkeypatch):
    """Given relative and absolute; the classifier and the denoiser name the same images by other paths."""
    for i in range(8):
        (tmp_path / "data" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 30 * i).save(tmp_path / "data" / "ab"[i % 2] / f"{i}.png")
    monkeypatch.chdir(tmp_path)

    def config(path, **overrides):
        of_folder = {"data__source": "folder", "data__path": path, "data__on_device": False, "train__num_steps": 1}
        return tiny_config(**{**of_folder, **SHORT, **overrides})

    train.train(config("data"), "run")
    save("classifier", config(str(tmp_path / "data"), task="classify", labels__num_classes=2, labels__names=("a", "b")))
    Path("run").rename("moved run")
    Path("data").rename("moved data")
    state = train.train(config(str(tmp_path / "moved data"), train__num_steps=2), tmp_path / "moved run")
    assert int(state.step) == 2
    run = Run("moved run").guide(Run("classifier")).configure(labels="b")
    assert run.sample(1).shape == (1, 8, 8, 1)
    stored = json.loads((tmp_path / "moved run/checkpoints/2/config/metadata").read_text())
    assert stored["config"]["data"]["path"] == str(tmp_path / "moved data")
