"""diffusers in and out: the same numbers on both sides, every tensor bit for bit, and what is not supported."""

import json
import re
import resource

import jax
import numpy as np
import pytest
import safetensors.numpy
from support.analytic import normal
from support.tiny import save, tiny_config
from support.weights import CIFAR10, SMALL, assert_agree, opened, random_unet, saved, theirs

from ddpm_jax import factory
from ddpm_jax.convert.families import DIFFUSERS_OLD_NAMES
from ddpm_jax.convert.incoming import import_weights, understood
from ddpm_jax.convert.outgoing import export_diffusers, network_config
from ddpm_jax.errors import UserError
from ddpm_jax.runs.run import Run

INDEX = np.array([3, 977])


def inputs(unet):
    """Images, times and, where there are classes, classes."""
    config = unet.config
    x = normal(2, config.sample_size, config.sample_size, config.in_channels).astype(np.float32)
    return (x, INDEX, np.array([1, 4])) if config.num_class_embeds else (x, INDEX)


def test_the_cifar10_network_at_full_width_says_what_diffusers_says(diffusers, tmp_path, quick_compilation):
    """As in google/ddpm-cifar10-32: flat in the folder, a .bin, attention by its old names."""
    import torch

    unet = random_unet(diffusers, CIFAR10)
    old = {new: old for old, new in DIFFUSERS_OLD_NAMES.items()}

    def old_name(name):
        for new, layer in old.items():
            name = name.replace(f".{new}.", f".{layer}.") if ".attentions." in name else name
        return name

    tmp_path.joinpath("config.json").write_text(unet.to_json_string())
    torch.save({old_name(k): v for k, v in unet.state_dict().items()}, tmp_path / "diffusion_pytorch_model.bin")
    assert any(".query." in old_name(name) for name in unet.state_dict())
    config, network, params, foreign = opened(tmp_path)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 35_746_307
    assert (config.sample.variance, config.diffusion.schedule) == ("large", "linear")
    assert foreign.assumed == {"scheduler": "Ho et al. 2020's"}
    x, index = normal(1, 32, 32, 3).astype(np.float32), np.array([500])
    assert_agree("diffusers, google/ddpm-cifar10-32", network(x, index), theirs(unet, x, index))


@pytest.mark.parametrize("name", list(SMALL))
def test_networks_say_the_same_on_both_sides_and_come_back_bit_for_bit(name, diffusers, tmp_path, quick_compilation):
    unet = random_unet(diffusers, SMALL[name])
    variance = "learned_range" if unet.config.out_channels == 6 else "fixed_large"
    folder = saved(tmp_path / "in", unet, variance_type=variance)
    _, network, _, _ = opened(folder)
    expected = theirs(unet, *inputs(unet))
    assert_agree(f"diffusers, small, {name}", network(*inputs(unet)), expected)

    import_weights(folder, tmp_path / "run")
    export_diffusers(Run(tmp_path / "run"), tmp_path / "out")
    back, report = diffusers.UNet2DModel.from_pretrained(tmp_path / "out", subfolder="unet", output_loading_info=True)
    assert all(not found for found in report.values()), report
    for key, tensor in unet.state_dict().items():
        np.testing.assert_array_equal(back.state_dict()[key].numpy(), tensor.numpy(), err_msg=key)
    assert back.state_dict().keys() == unet.state_dict().keys()
    assert_agree(f"diffusers, small, {name}, back", theirs(back.eval(), *inputs(unet)), expected, within=1e-6)


def test_a_run_of_ours_says_the_same_in_diffusers(diffusers, tmp_path, quick_compilation):
    """Heads by number, which diffusers has by width; sines first; a trained and an averaged set of parameters."""
    heads = {"model__num_heads": 2, "model__channels": 16, "model__channel_mult": (1, 2), "data__split": "all"}
    config = tiny_config(**heads)
    save(tmp_path / "run", config)
    for params in ("ema", "raw"):
        run = Run(tmp_path / "run", params=params)
        export_diffusers(run, tmp_path / params)
        unet, report = diffusers.UNet2DModel.from_pretrained(
            tmp_path / params, subfolder="unet", output_loading_info=True
        )
        assert all(not found for found in report.values()), report
        x = normal(2, 8, 8, 1).astype(np.float32)
        ours = jax.jit(run.model.apply)({"params": run.params}, x, INDEX)
        assert_agree(f"ours in diffusers, {params}", theirs(unet.eval(), x, INDEX), ours)
    ema, raw = (safetensors.numpy.load_file(tmp_path / p / "unet" / _FILE)["conv_in.weight"] for p in ("ema", "raw"))
    assert not np.array_equal(ema, raw)


_FILE = "diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize("pipeline", ["DDPMPipeline", "DDIMPipeline"])
def test_a_digits_run_of_ours_samples_in_diffusers(pipeline, diffusers, tmp_path):
    save(tmp_path / "run", tiny_config())
    export_diffusers(Run(tmp_path / "run"), tmp_path / "out")
    opened = getattr(diffusers, pipeline).from_pretrained(tmp_path / "out")
    opened.set_progress_bar_config(disable=True)
    images = opened(batch_size=2, num_inference_steps=20, output_type="np").images
    assert images.shape == (2, 8, 8, 1)
    assert np.isfinite(images).all()
    assert images.std() > 0.1


def test_the_program_on_the_card_runs(diffusers, tmp_path, monkeypatch):
    """Both of its pipelines, which take the folder by its name; DDIM on the grid that ends as ours does."""
    save(tmp_path / "run", tiny_config())
    export_diffusers(Run(tmp_path / "run"), tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    card = (tmp_path / "out" / "README.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    names = {}
    exec(program, names)
    assert names["pipeline"].scheduler.config.timestep_spacing == "trailing"
    assert names["image"].size == (8, 8)


def test_a_learned_variance_samples_in_diffusers(diffusers, tmp_path):
    learned = {"diffusion__learned_variance": True, "loss__kind": "hybrid", "sample__variance": "learned"}
    save(tmp_path / "run", tiny_config(**learned))
    export_diffusers(Run(tmp_path / "run"), tmp_path / "out")
    opened = diffusers.DDPMPipeline.from_pretrained(tmp_path / "out")
    opened.set_progress_bar_config(disable=True)
    assert opened(batch_size=2, num_inference_steps=20, output_type="np").images.shape == (2, 8, 8, 1)
    assert "DDIMScheduler` does not support" in (tmp_path / "out" / "README.md").read_text()


def test_the_card_has_data_figures_and_configuration_but_no_place(tmp_path):
    save(tmp_path / "run", tiny_config(data__path="/home/somebody"))
    (tmp_path / "run" / "evaluation").mkdir()
    result = {"step": 1, "params": "ema", "bits_per_dim": 3.25, "terms": [1, 2]}
    (tmp_path / "run" / "evaluation" / "bpd.json").write_text(json.dumps(result))
    export_diffusers(Run(tmp_path / "run"), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "bpd: step 1, bits_per_dim 3.25" in card
    assert "UCI digits, split train, without random flips" in card
    assert '"num_timesteps": 20' in card
    assert "/home" not in card


def test_figures_of_averaged_parameters_do_not_stand_under_raw_ones(tmp_path):
    save(tmp_path / "run", tiny_config())
    (tmp_path / "run" / "evaluation").mkdir()
    for params, figure in {"ema": 3.25, "raw": 3.5}.items():
        result = {"step": 1, "params": params, "bits_per_dim": figure}
        (tmp_path / "run" / "evaluation" / f"bpd_{params}.json").write_text(json.dumps(result))
    for params, own, other in (("ema", "3.25", "3.5"), ("raw", "3.5", "3.25")):
        export_diffusers(Run(tmp_path / "run", params=params), tmp_path / params)
        card = (tmp_path / params / "README.md").read_text()
        assert f"bits_per_dim {own}\n" in card
        assert f"bits_per_dim {other}\n" not in card


def test_the_card_tells_where_the_weights_come_from_also_after_training_on(tmp_path):
    """And of the images of a folder, which has no splits, nothing but that."""
    files = [{"name": "model.ckpt", "bytes": 3, "sha256": "abc"}]
    for step, expected in {
        0: "\nNot trained further: converted from Ho et al.'s weights, model.ckpt (sha256 abc).\n",
        7: "\nTrained on: a folder of images, with random flips.\n\n"
        "Before that, it was converted from Ho et al.'s weights, model.ckpt (sha256 abc).\n",
    }.items():
        config = tiny_config(data__source="folder", data__random_flip=True)
        workdir = save(tmp_path / f"run_{step}", config, steps=(step,))
        (workdir / "provenance.json").write_text(json.dumps({"format": "Ho et al.'s", "files": files}))
        export_diffusers(Run(workdir), tmp_path / str(step))
        assert expected in (tmp_path / str(step) / "README.md").read_text()


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    save(tmp_path / "run", tiny_config())
    before = set(tmp_path.rglob("*"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(
            UserError, match=r"^cannot write .*out: File too large; free the disk or choose another place$"
        ):
            export_diffusers(Run(tmp_path / "run"), tmp_path / "a" / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert set(tmp_path.rglob("*")) == before


REFUSED = {
    "_class_name": ("UNet2DConditionModel", "'UNet2DConditionModel'; only UNet2DModel"),
    "time_embedding_type": ("fourier", "time_embedding_type='fourier' is not supported, only 'positional'"),
    "mid_block_type": (None, "mid_block_type=None is not supported"),
    "mid_block_scale_factor": (2, "mid_block_scale_factor=2 is not supported, only 1"),
    "add_attention": (False, "add_attention=False is not supported"),
    "center_input_sample": (True, "center_input_sample=True"),
    "act_fn": ("gelu", "act_fn='gelu'"),
    "class_embed_type": ("timestep", "class_embed_type='timestep'"),
    "cross_attention_dim": (768, "settings that no UNet2DModel has: cross_attention_dim"),
    "block_out_channels": ([32, 48], "each width must be a multiple of the first"),
    "time_embedding_dim": (64, "time_embedding_dim=64"),
    "down_block_types": (["SkipDownBlock2D", "AttnDownBlock2D"], "is not supported"),
    "up_block_types": (["UpBlock2D", "AttnUpBlock2D"], "is not supported"),
    "downsample_padding": (2, "downsample_padding=2 is not supported"),
    "freq_shift": (0, "(flip_sin_to_cos, freq_shift)=(False, 0) is not supported"),
    "resnet_time_scale_shift": ("scale_shift", "attn_norm_num_groups must be equal to norm_num_groups"),
    "upsample_type": ("resnet", "must be both conv or both resnet"),
    "out_channels": (4, "maps 3 channels to 4"),
}
REFUSED_SCHEDULERS = {
    "_class_name": ("ScoreSdeVeScheduler", "describes a scheduler 'ScoreSdeVeScheduler', which is not supported"),
    "beta_schedule": ("laplace", "beta_schedule='laplace' is not supported; supported are: linear"),
    "trained_betas": ([0.1, 0.2], "trained_betas=[0.1, 0.2]"),
    "prediction_type": ("score", "prediction_type='score'"),
    "variance_type": (
        "learned_range",
        "variance_type='learned_range' does not fit a network whose output has the channels",
    ),
    "thresholding": (True, "thresholding=True"),
    "rescale_betas_zero_snr": ("yes", "rescale_betas_zero_snr='yes'"),
    "clip_sample_range": (2.0, "clip_sample_range=2.0"),
}


def foreign_folder(folder, unet=None, scheduler=None):
    """A folder whose settings are read before its weights."""
    folder.joinpath("config.json").write_text(json.dumps({**SMALL["google"], **(unet or {})}))
    folder.joinpath("scheduler_config.json").write_text(json.dumps(scheduler or {}))
    safetensors.numpy.save_file({"a": np.zeros(1)}, folder / _FILE)
    return folder


@pytest.mark.parametrize("key", list(REFUSED))
def test_networks_that_ours_is_not_are_refused_with_the_reason(key, tmp_path):
    value, reason = REFUSED[key]
    with pytest.raises(UserError) as caught:
        understood(foreign_folder(tmp_path, {key: value}), {})
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", list(REFUSED_SCHEDULERS))
def test_schedulers_that_ours_are_not_are_refused_with_the_reason(key, tmp_path):
    value, reason = REFUSED_SCHEDULERS[key]
    with pytest.raises(UserError) as caught:
        understood(foreign_folder(tmp_path, scheduler={key: value}), {})
    assert reason in str(caught.value)


NONSENSE = [  # (key, values)
    ("sample_size", [[8, 16], "8", True, 0]),
    ("in_channels", [None, 0]),
    ("down_block_types", [5, [], ["DownBlock2D", 1]]),
    ("block_out_channels", [[], 32, [0, 0], [32, True], [10**9, 10**9]]),
    ("layers_per_block", [None, [1, 2], 0, 10**6]),
    ("upsample_type", [[]]),
    ("downsample_padding", [True]),
    ("dropout", [None, "0.1", 2]),
    ("attention_head_dim", [-8, "8"]),
    ("norm_num_groups", [None, "many", 0]),
    ("norm_eps", [None, -1, float("nan")]),
    ("num_class_embeds", [-1, 10**12]),
]
NONSENSE_OF_SCHEDULERS = [
    ("num_train_timesteps", [None, 0, 1000.0, True, 10**13]),
    ("beta_start", [None, "x", [1]]),
    ("beta_end", [2.0, float("inf")]),
    ("variance_type", [None, 5]),
    ("clip_sample", [None, "yes", 1]),
]


@pytest.mark.parametrize(("key", "values"), NONSENSE)
def test_values_that_no_network_has_are_one_line_that_names_the_key(key, values, tmp_path):
    for value in values:
        with pytest.raises(UserError) as caught:
            understood(foreign_folder(tmp_path, {key: value}), {})
        assert f"{key}={value!r} " in str(caught.value)


@pytest.mark.parametrize(("key", "values"), NONSENSE_OF_SCHEDULERS)
def test_values_that_no_scheduler_has_are_one_line_that_names_the_key(key, values, tmp_path):
    for value in values:
        with pytest.raises(UserError, match=f"^scheduler_config.json: {key}=") as caught:
            understood(foreign_folder(tmp_path, scheduler={key: value}), {})
        assert f"{key}={value!r} must be " in str(caught.value)


@pytest.mark.parametrize("content", [b"[" * 200_000, b'{"a":' * 200_000, b"\xff", b"", b'{"a":' + b"1" * 6000 + b"}"])
def test_broken_json_is_one_line(content, tmp_path):
    foreign_folder(tmp_path).joinpath("config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"config.json is not JSON: .+$"):
        understood(tmp_path, {})


def test_the_scheduler_says_how_the_original_samples(tmp_path):
    scheduler = {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": 50,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.001,
        "beta_end": 0.03,
        "prediction_type": "v_prediction",
        "variance_type": "fixed_small_log",
        "clip_sample": False,
        "rescale_betas_zero_snr": True,
    }
    settings = understood(foreign_folder(tmp_path, scheduler=scheduler), {})[0].settings
    assert {key: settings[key] for key in settings if key.startswith(("diffusion.", "sample."))} == {
        "diffusion.learned_variance": False,
        "diffusion.zero_terminal_snr": True,
        "diffusion.num_timesteps": 50,
        "diffusion.schedule": "quadratic",
        "diffusion.beta_start": 0.001,
        "diffusion.beta_end": 0.03,
        "diffusion.target": "v",
        "sample.sampler": "ddim",
        "sample.variance": "small",
        "sample.clip_x_0": False,
    }


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ({"task": "classify", "labels__num_classes": 10}, "no classifiers"),
        ({"model__time_scale": 0.25}, "time_scale=0.25"),
        (
            {"model__num_heads": 2, "model__channel_mult": (1, 2), "model__attention_resolutions": (8,)},
            r"num_heads=2 divides several widths: 8, 16",
        ),
    ],
)
def test_networks_that_diffusers_has_not_are_refused_with_the_reason(overrides, reason):
    config = tiny_config(**overrides)
    with pytest.raises(UserError, match=reason):
        network_config(config, factory.network(config))
