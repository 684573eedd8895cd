"""The Frechet distance while a run is trained: that of samples of the averaged parameters to the training images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tiny import same, save, tiny_config

import ddpm_jax as dj
from ddpm_jax import factory
from ddpm_jax.data.source import load
from ddpm_jax.errors import UserError
from ddpm_jax.jobs import train
from ddpm_jax.jobs.quality import Quality, quality
from ddpm_jax.metrics.frechet import frechet_distance, moments
from ddpm_jax.runtime.devices import device_mesh
from ddpm_jax.training.log import read_log

pytestmark = pytest.mark.usefixtures("quick_compilation")

RUN = {
    "data__held_out": 0.5,
    "log__held_out_every": 0,
    "log__quality_every": 2,
    "log__quality_images": 130,
    "log__quality_steps": 3,
    "train__num_steps": 4,
    "diffusion__num_timesteps": 6,
    "diffusion__beta_end": 0.9,
    "optim__warmup_steps": 0,
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory, quick_compilation):
    workdir = tmp_path_factory.mktemp("measured")
    return workdir, train.train(tiny_config(**RUN), workdir)


def flat(images):
    return images.reshape(len(images), -1)


def test_it_is_the_distance_of_what_the_run_draws_to_the_images_it_is_trained_on(measured):
    workdir, _ = measured
    lines = read_log(workdir)
    assert ["fd" in line for line in lines] == [False, True, False, True]
    run = dj.Run(workdir)
    samples = dj.from_uint8(run.sample(130, num_steps=3))
    real, _ = load(run.source("train"))
    assert len(real) < 1297
    expected = frechet_distance(moments(flat(real)), moments(flat(samples)))
    assert lines[-1]["fd"] == pytest.approx(expected, rel=1e-4)
    assert lines[1]["fd"] != lines[-1]["fd"]


@pytest.mark.slow
def test_the_run_itself_is_the_same_without_the_measurement(measured, tmp_path):
    plain = {key: value for key, value in RUN.items() if "quality" not in key}
    state = train.train(tiny_config(**plain), tmp_path)
    assert same(state, measured[1])
    assert not (tmp_path / "evaluation").exists()


def test_features_of_the_data_are_kept_for_the_next_start(measured, monkeypatch):
    workdir, state = measured
    kept = sorted((workdir / "evaluation" / "features").iterdir())
    assert len(kept) == 6  # of 615 images, 104 in each: the samples are not kept
    times = [path.stat().st_mtime_ns for path in kept]
    config = tiny_config(**RUN)
    again = Quality(config, factory.network(config), factory.source(config), device_mesh(), workdir=workdir)
    assert again(4, state) == {"fd": read_log(workdir)[-1]["fd"]}
    assert [path.stat().st_mtime_ns for path in sorted((workdir / "evaluation" / "features").iterdir())] == times


def test_images_that_are_not_finite_have_no_distance(measured):
    workdir, state = measured
    config = tiny_config(**RUN)
    measure = Quality(config, factory.network(config), factory.source(config), device_mesh(), workdir=workdir)
    broken = state.replace(ema_params=jax.tree.map(lambda leaf: leaf * jnp.nan, state.ema_params))
    assert np.isnan(measure(2, broken)["fd"])
    assert measure(3, broken) == {}


@pytest.mark.slow
def test_features_may_be_those_of_a_classifier(tmp_path):
    classifier = save(tmp_path / "classifier", tiny_config(task="classify", labels__num_classes=10))
    config = tiny_config(**RUN | {"log__quality_features": str(classifier), "train__num_steps": 2})
    train.train(config, tmp_path / "run")
    assert read_log(tmp_path / "run")[-1]["fd"] >= 0


@pytest.mark.parametrize(
    ("features", "message"),
    [("pixel", "there are no features 'pixel'.*did you mean 'pixels'"), ("classifier", "the classifier is for images")],
)
def test_features_that_cannot_be_compared_are_refused_before_the_first_step(features, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "classifier", tiny_config(task="classify", labels__num_classes=10, data__image_size=16))
    with pytest.raises(UserError, match=message):
        train.train(tiny_config(**RUN, log__quality_features=features), tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["classifier"]


def test_nothing_is_measured_where_it_is_switched_off_or_there_is_no_source(tmp_path):
    config = tiny_config(**RUN)
    model, mesh = factory.network(config), device_mesh()
    assert quality(config, model, [{}], mesh, workdir=tmp_path) == []
    config.log.quality_every = 0
    assert quality(config, model, factory.source(config), mesh, workdir=tmp_path) == []
