"""CelebA's whole path, on images with the real builder's features: its config trains, resumes, draws and measures."""

import json

import numpy as np
import pytest
from PIL import Image
from support.tiny import run

from ddpm_jax.training import log

SMALL = [
    "--config=configs/celeba.py",
    "--config.data.label=attributes/Smiling",
    "--config.labels.num_classes=2",
    "--config.data.image_size=16",
    "--config.labels.dropout=0.1",
    "--config.model.channels=8",
    "--config.model.channel_mult=(1,1)",
    "--config.model.num_res_blocks=1",
    "--config.model.norm_groups=4",
    "--config.model.attention_resolutions=()",
    "--config.diffusion.num_timesteps=10",
    "--config.train.batch_size=8",
    "--config.log.every=1",
    "--config.log.preview_every=0",
    "--config.log.preview_images=4",
]


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
def test_celeba_trains_resumes_draws_and_measures(prepared, tmp_path):
    train = [*SMALL, f"--config.data.path={prepared}", f"--workdir={tmp_path}/run"]
    for num_steps in (2, 3):
        outcome = run("train.py", *train, f"--config.train.num_steps={num_steps}")
        assert outcome.status == 0, outcome.err
    assert [line["step"] for line in log.read_log(tmp_path / "run")] == [1, 2, 3]
    smiling = ["--labels=1", "--guidance_scale=2", "--num_images=3", "--num_steps=2", f"--out={tmp_path}/faces/"]
    outcome = run("sample.py", f"--workdir={tmp_path}/run", *smiling)
    assert outcome.status == 0, outcome.err
    faces = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "faces").glob("*.png"))]
    assert [face.shape for face in faces] == [(16, 16, 3)] * 3
    outcome = run("evaluate.py", f"--workdir={tmp_path}/run", "--metrics=bpd", "--num_images=2")
    assert outcome.status == 0, outcome.err
    (result,) = (tmp_path / "run" / "evaluation").glob("*.json")
    assert np.isfinite(json.loads(result.read_text())["bits_per_dim"])
