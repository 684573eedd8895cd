"""Runs of earlier versions: opened, drawn from and trained on."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.tiny import arguments
from support.tiny import run as program

from ddpm_jax.config import to_json
from ddpm_jax.errors import UserError
from ddpm_jax.runs.run import Run
from ddpm_jax.runs.sampling import sample_run

NOVEMBER = Path(__file__).parent / "earlier_runs" / "november_2026"

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_it_opens_and_draws_the_same_images(capsys):
    run = Run(NOVEMBER).configure(sampler="ddim", labels=3)
    drawn = run.sample(8, seed=3, num_steps=10).astype(int)
    recorded = np.load(NOVEMBER / "ddim_labels_3_seed3.npz")["arr_0"]
    assert run.step == 8
    assert "was made by an earlier version, which stored no digests" in capsys.readouterr().out
    assert np.abs(drawn - recorded).max() <= 1  # one level of 8 bits, for another version of XLA


def test_its_samples_are_not_continued_and_it_is_said_why(tmp_path):
    """Its records have the place of the run, and no digest of the network."""
    run = Run(NOVEMBER).configure(sampler="ddim", labels=3)
    folder, settings = tmp_path / "samples", {"seed": 3, "num_steps": 10}
    folder.mkdir()
    sample = {**to_json(run.config.sample), "num_steps": 10, "labels": "3"}
    record = {"workdir": str(NOVEMBER), "step": 8, "params": "ema", "seed": 3, "sample": sample}
    (folder / "sampling.json").write_text(json.dumps({**record, "classifier": None, "inpainting": None}))
    with pytest.raises(UserError) as caught:
        sample_run(run, folder, num_images=1, **settings)
    assert str(caught.value) == (
        f"{folder} was drawn by an earlier version, which recorded the path of the run and not its network, so the "
        "images there may come from another network: draw all images into another folder"
    )
    assert [path.name for path in folder.iterdir()] == ["sampling.json"]


@pytest.mark.slow
def test_it_trains_on(tmp_path):
    shutil.copytree(NOVEMBER, tmp_path / "run")
    workdir = f"--workdir={tmp_path / 'run'}"
    again = program("train.py", workdir, *arguments(Run(NOVEMBER).config), "--config.train.num_steps=9")
    assert again.status == 0, again.err
    assert "from now on the noise is not what it would have drawn" in again.out
    assert Run(tmp_path / "run").step == 9
