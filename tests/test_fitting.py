"""Chains that are fitted to a run: what is measured is right, it is used, and what is missing or stale is refused."""

import shutil

import jax
import numpy as np
import pytest
from support.tiny import run, save, tiny_config

from ddpm_jax import factory
from ddpm_jax.data.in_memory import ArrayImages
from ddpm_jax.diffusion import sequences
from ddpm_jax.diffusion.likelihood import bits_per_dim
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.evaluate import evaluate
from ddpm_jax.evaluation.fitting import fit_chain, measured_terms, whole_batches
from ddpm_jax.runs.run import Run

pytestmark = pytest.mark.usefixtures("quick_compilation")

T = 9
SETTINGS = {"diffusion__num_timesteps": T, "diffusion__beta_end": 0.4}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, quick_compilation):
    """A run of random parameters, measured by the program."""
    workdir = save(tmp_path_factory.mktemp("run"), tiny_config(**SETTINGS), steps=(1,))
    done = run("evaluate.py", f"--workdir={workdir}", "--fit_chain", "--num_images=16")
    assert done.status == 0, done.err
    assert "bound of short chains (16 images, variance large, bits/dim without L_T)" in done.out
    assert f"written to {workdir}/fitted" in done.out
    return workdir


@pytest.fixture
def copied(workdir, tmp_path):
    return shutil.copytree(workdir, tmp_path / "run")


def test_the_bound_of_a_fitted_chain_is_the_lowest_of_all(workdir):
    """On the images of the fit, up to the noise, which is drawn anew: all grids are measured with the same noise."""
    opened, source = Run(workdir), Run(workdir).source("train")
    images = whole_batches(source, num_images=16, batch_size=16, run=opened)
    terms, _ = measured_terms(opened, images, "test")
    np.testing.assert_array_equal(terms, opened.configure(grid="bound").chain_fit().terms)
    for count in (2, 4):
        times = opened.transitions(count).now.t
        best = sequences.total(terms, np.append(times, 0))
        for grid in factory.GRIDS:
            other = np.append(np.round(opened.configure(grid=grid).transitions(count).now.t), 0)
            assert best <= sequences.total(terms, other) + 1e-9
        opened.configure(grid="bound")


def test_the_metric_of_the_bound_has_the_terms_that_were_measured(workdir, copied):
    """Each term, up to the noise of another draw, by the chain of the metric itself."""
    opened = Run(copied).configure(grid="bound")
    times = opened.transitions(3).now.t
    result = evaluate(opened, ["bpd"], source=opened.source("train"), num_images=512, num_steps=3)["bpd"]
    assert result["times"] == times.tolist()
    measured = bits_per_dim(sequences.total(opened.chain_fit().terms, np.append(times, 0)), opened.shape)
    assert sum(result["terms"]) == pytest.approx(float(measured), rel=0.1)


@pytest.mark.slow
def test_samples_take_the_fitted_times_and_the_analytic_variance(workdir):
    opened = Run(workdir)
    small = opened.configure(variance="small").sample(2, num_steps=3)
    for settings in ({"grid": "bound"}, {"grid": "fitted", "sampler": "ddim"}, {"variance": "analytic"}):
        opened = Run(workdir).configure(**settings)
        assert np.isfinite(opened.chain(3)(opened.params, jax.random.key(0), indices=[0])).all()
        assert opened.sample(2, num_steps=3).shape == small.shape
    assert opened.chain(3).compiled.times.tolist() == [9, 6, 3, 0]
    assert (opened.sample(2, num_steps=3) != small).any()


def test_the_errors_are_those_of_the_estimate(workdir):
    fit = Run(workdir).configure(variance="analytic").chain_fit()
    assert fit.x_0_mse.shape == (T,)
    assert (fit.x_0_mse > 0).all()
    assert np.isfinite(fit.jumps).all()
    later = np.tri(T, k=-1, dtype=bool)
    # A step to the next time is one of the solution itself, and has no error.
    np.testing.assert_allclose(fit.jumps[np.arange(T), np.arange(T)], 0, atol=2e-6)
    assert (fit.jumps[later] > 4e-6).all()


@pytest.mark.slow
def test_pictures_and_folders_are_drawn_with_them(workdir, tmp_path):
    flags = [f"--workdir={workdir}", "--num_images=2", "--num_steps=3"]
    for grid in ("bound", "fitted"):
        done = run("sample.py", *flags, f"--grid={grid}", "--variance=analytic", f"--out={tmp_path / grid}/")
        assert done.status == 0, done.err
        assert len(list((tmp_path / grid).glob("*.png"))) == 2


def test_a_run_without_measurements_says_how_to_make_them(tmp_path):
    workdir = save(tmp_path / "run", tiny_config(**SETTINGS), steps=(1,))
    for settings in ({"grid": "bound"}, {"grid": "fitted"}, {"variance": "analytic"}):
        with pytest.raises(UserError, match=f"has no measurements for .* --workdir={workdir} --fit_chain$"):
            Run(workdir).configure(**settings).sample(1, num_steps=2)


def test_measurements_of_other_parameters_are_refused(copied):
    save(copied, tiny_config(**SETTINGS), steps=(2,))
    with pytest.raises(UserError, match=r"was measured of other parameters \(step 1\): repeat .* --fit_chain"):
        Run(copied).configure(grid="bound").sample(1, num_steps=2)


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_a_damaged_file_is_refused(copied, content):
    path = copied / "fitted" / "ema.npz"
    path.write_bytes(path.read_bytes()[:-200] if content is None else content)
    with pytest.raises(UserError, match=r"/ema\.npz is damaged: make it again with"):
        Run(copied).configure(grid="bound").sample(1, num_steps=2)


@pytest.mark.slow
def test_another_fit_replaces_the_first_in_an_opened_run(copied):
    opened = Run(copied).configure(grid="fitted")
    before = opened.chain(3).compiled.times
    rng = np.random.default_rng(0)
    made = fit_chain(opened, source=ArrayImages(rng.integers(0, 256, (24, 8, 8, 1), np.uint8)), num_images=24)
    assert made.about["num_images"] == 24
    np.testing.assert_array_equal(opened.chain_fit().terms, made.fit.terms)
    np.testing.assert_array_equal(opened.chain(3).compiled.times, before)  # the solutions do not depend on images


def test_raw_parameters_have_a_file_of_their_own(copied):
    with pytest.raises(UserError, match=r"--fit_chain --params=raw$"):
        Run(copied, params="raw").configure(grid="bound").sample(1, num_steps=2)


def test_training_refuses_what_needs_a_trained_run(tmp_path):
    for flag in ("--config.sample.grid=bound", "--config.sample.variance=analytic"):
        done = run("train.py", "--config=digits", f"--workdir={tmp_path / 'run'}", flag)
        assert done.status
        assert "needs measurements of a trained run: train with another choice" in done.err
        assert not (tmp_path / "run").exists()


def test_flags_that_have_no_effect_are_refused(workdir):
    for more in ("--metrics=bpd", "--report"):
        done = run("evaluate.py", f"--workdir={workdir}", "--fit_chain", more)
        assert done.status
        assert "has measurements of its own: leave" in done.err
