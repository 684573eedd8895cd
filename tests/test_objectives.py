"""The experiments in continuous time: they train, resume bit for bit, and draw finite images with their own sampler."""

import numpy as np
import pytest
from support.tiny import TINY, same

from ddpm_jax.config import experiment
from ddpm_jax.jobs.train import train
from ddpm_jax.runs.run import Run

SETTINGS = {"diffusion.num_timesteps": 100, "optim.warmup_steps": 0}
pytestmark = pytest.mark.usefixtures("quick_compilation")


def tiny(name, num_steps):
    """The experiment on a tiny network, for so many steps."""
    config = experiment(name)
    for key, value in {**TINY, **SETTINGS, "name": name, "train.num_steps": num_steps}.items():
        group, _, last = key.rpartition(".")
        (config[group] if group else config)[last] = value
    return config


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits_edm", "digits_flow", "digits_vdm"])
def test_an_experiment_in_continuous_time_trains_resumes_and_samples(name, tmp_path):
    whole = train(tiny(name, 6), tmp_path / "whole")
    train(tiny(name, 3), tmp_path / "run")
    assert same(train(tiny(name, 6), tmp_path / "run"), whole)
    run = Run(tmp_path / "run")
    frames = run.trajectory(2, num_steps=5, num_frames=5)
    assert np.isfinite(frames.x).all()
    assert np.isfinite(frames.x_0).all()
