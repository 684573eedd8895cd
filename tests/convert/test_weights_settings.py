"""The settings in diffusers folders: sizes, schedulers, and values that are shown in messages."""

import json

import pytest
from support.weights import write

from ddpm_jax import factory
from ddpm_jax.config import experiment
from ddpm_jax.convert import outgoing
from ddpm_jax.convert.incoming import understood
from ddpm_jax.convert.schedulers import SCHEDULE
from ddpm_jax.errors import UserError


def test_a_pair_of_equal_sides_is_a_size(foreign, tmp_path):
    network, _ = understood(write(tmp_path, foreign, sample_size=[8, 8]), {})
    assert network.settings["data.image_size"] == 8


@pytest.mark.parametrize("size", [[8, 16], [8], [8, 8, 8], [True, True], [0, 0], ["8", "8"]])
def test_other_sizes_are_refused_by_name(size, foreign, tmp_path):
    with pytest.raises(UserError) as caught:
        understood(write(tmp_path, foreign, sample_size=size), {})
    expected = "must be a whole number from 1 to 1,000,000, or a pair of equal ones, or null"
    assert str(caught.value) == f"config.json: sample_size={size!r} {expected}"


CLOSEST = {
    "PNDMScheduler": ("ddim", {"skip_prk_steps": True}),
    "EulerDiscreteScheduler": ("ddim", {"use_karras_sigmas": True}),
    "EulerAncestralDiscreteScheduler": ("ancestral", {}),
    "HeunDiscreteScheduler": ("heun", {"clip_sample": False}),
    "DPMSolverMultistepScheduler": ("dpm_solver_pp_2m", {"variance_type": None}),
}


@pytest.mark.parametrize("name", list(CLOSEST))
def test_a_scheduler_that_only_samples_gives_its_noise_and_a_sampler_of_ours_which_is_said(name, foreign, tmp_path):
    sampler, more = CLOSEST[name]
    settings = {"_class_name": name, "beta_schedule": "scaled_linear", "beta_end": 0.015, "beta_start": 0.001, **more}
    write(tmp_path, foreign).joinpath("scheduler_config.json").write_text(json.dumps(settings))
    network, _ = understood(tmp_path, {})
    ours = [network.settings[key] for key in ("diffusion.schedule", "diffusion.beta_start", "diffusion.beta_end")]
    assert ours == ["quadratic", 0.001, 0.015]
    assert network.settings["sample.sampler"] == sampler
    assert network.settings["sample.clip_x_0"] == more.get("clip_sample", True)
    assert network.notes == (
        f"{name} is not available here: its noise schedule is used, and the run samples with {sampler}",
    )


@pytest.mark.parametrize(
    ("name", "betas"),
    [("HeunDiscreteScheduler", (0.00085, 0.012)), ("EulerDiscreteScheduler", (1e-4, 0.02)), (None, (1e-4, 0.02))],
)
def test_betas_that_are_not_written_are_the_schedulers_own(name, betas, foreign, tmp_path):
    scheduler = {"_class_name": name} if name else {"num_train_timesteps": 1000}
    write(tmp_path, foreign).joinpath("scheduler_config.json").write_text(json.dumps(scheduler))
    settings = understood(tmp_path, {})[0].settings
    assert (settings["diffusion.beta_start"], settings["diffusion.beta_end"]) == betas


@pytest.mark.parametrize(
    "name", ["FlowMatchLCMScheduler", "ScoreSdeVeScheduler", "LCMScheduler", 5, [["x"]], 999 * "n"]
)
def test_a_scheduler_of_another_noise_is_refused_by_name(name, foreign, tmp_path):
    """Also where another of its settings could not be expressed either."""
    scheduler = {"_class_name": name, "variance_type": None}
    write(tmp_path, foreign).joinpath("scheduler_config.json").write_text(json.dumps(scheduler))
    with pytest.raises(UserError, match=r"describes a scheduler .+, which is not supported; these are: ") as caught:
        understood(tmp_path, {})
    assert (repr(name) if name != 999 * "n" else "'nnnn") in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("key", ["_class_name", "act_fn", "down_block_types", "dropout", "sample_size", 10_000 * "n"])
def test_long_names_in_settings_are_clipped(key, foreign, tmp_path):
    for value in (10_000 * "n", [10_000 * "n"], 100 * [10_000 * "n"], {10_000 * "n": 1}):
        with pytest.raises(UserError) as caught:
            understood(write(tmp_path, foreign, **{key: value}), {})
        assert len(str(caught.value)) < 1000


def test_values_within_values_are_clipped(foreign, tmp_path):
    """Deeper than Python writes them."""
    nested = 900 * "[" + 900 * "]"
    config = json.dumps(foreign.config | {"sample_size": None}).replace(
        '"sample_size": null', f'"sample_size": {nested}'
    )
    write(tmp_path, foreign).joinpath("config.json").write_text(config)
    with pytest.raises(UserError, match=r"config\.json: sample_size=\[\[\[\[\.\.\.\]\]\]\] must be a whole number"):
        understood(tmp_path, {})


def test_settings_of_more_blocks_than_tensors_are_refused_before_they_are_made(foreign, tmp_path):
    many = {"block_out_channels": 9 * [8], "layers_per_block": 100, "sample_size": 256}
    blocks = {"down_block_types": 9 * ["DownBlock2D"], "up_block_types": 9 * ["UpBlock2D"]}
    with pytest.raises(UserError, match=r"describes 900 blocks, but there are only \d+ tensors"):
        understood(write(tmp_path, foreign, **many, **blocks), {})


def test_settings_that_are_far_too_large_are_not_opened(foreign, tmp_path, monkeypatch):
    monkeypatch.setattr("ddpm_jax.convert.folders._MOST_JSON", 100)
    with pytest.raises(UserError, match=r"config\.json is too large for settings \(\d+ bytes\), so it was not opened"):
        understood(write(tmp_path, foreign), {})


def test_every_schedule_has_a_name_in_diffusers_or_is_refused(monkeypatch):
    config = experiment("digits")
    assert factory.SCHEDULES.keys() - SCHEDULE.keys() == {"log_snr", "straight"}  # of other schedulers
    for name in SCHEDULE:
        config.diffusion.schedule = name
        assert outgoing.scheduler_config(config)["beta_schedule"] == SCHEDULE[name]
    monkeypatch.setattr(outgoing, "SCHEDULE", {name: SCHEDULE[name] for name in SCHEDULE if name != "linear"})
    config.diffusion.schedule = "linear"
    with pytest.raises(
        UserError, match=r"DDPMScheduler does not support config.diffusion.schedule=linear: this run cannot"
    ):
        outgoing.scheduler_config(config)
