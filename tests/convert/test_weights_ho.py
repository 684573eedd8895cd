"""Ho et al.'s weights in PyTorch: a network of diffusers, which has the same form, under the names of DDIM's code."""

import re

import numpy as np
import pytest
from support.analytic import normal
from support.weights import SMALL, assert_agree, opened, random_unet, theirs

from ddpm_jax.convert import ho
from ddpm_jax.convert.families import HO
from ddpm_jax.convert.incoming import import_weights
from ddpm_jax.convert.loader import state_dict
from ddpm_jax.convert.names import flat, tensors
from ddpm_jax.errors import UserError
from ddpm_jax.runs.run import Run

# (a name of diffusers, the name of DDIM's code)
RENAMED = [
    (r"time_embedding\.linear_1", "temb.dense.0"),
    (r"time_embedding\.linear_2", "temb.dense.1"),
    (r"conv_norm_out", "norm_out"),
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0", "mid.attn_1"),
    (r"down_blocks\.(\d+)\.resnets", r"down.\1.block"),
    (r"(down|up)_blocks\.(\d+)\.attentions", r"\1.\2.attn"),
    (r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample"),
    (r"up_blocks\.(\d+)\.resnets", r"up.\1.block"),
    (r"up_blocks\.(\d+)\.upsamplers\.0", r"up.\1.upsample"),
    (r"time_emb_proj", "temb_proj"),
    (r"conv_shortcut", "nin_shortcut"),
    (r"group_norm", "norm"),
    (r"to_(q|k|v)", r"\1"),
    (r"to_out\.0", "proj_out"),
]


def as_ho(unet):
    """The network's weights as DDIM's code keeps them: 1x1 convolutions for linear maps, up counted from the finest."""
    last, weights = len(unet.config.block_out_channels) - 1, {}
    for name, tensor in unet.state_dict().items():
        if ".attentions." in name and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]
        for pattern, renamed in RENAMED:
            name = re.sub(pattern, renamed, name)
        name = re.sub(r"^up\.(\d+)", lambda found: f"up.{last - int(found[1])}", name)
        weights[name] = tensor
    return weights


@pytest.fixture(scope="module")
def unet(diffusers):
    """A small network of the family, whose norms have 32 groups."""
    return random_unet(diffusers, {**SMALL["google"], "norm_num_groups": 32})


def test_the_network_says_what_it_said(unet, tmp_path, quick_compilation):
    import torch

    torch.save(as_ho(unet), tmp_path / "model.ckpt")
    config, network, params, foreign = opened(tmp_path / "model.ckpt", image_size=8)
    x, index = normal(2, 8, 8, 3).astype(np.float32), np.array([3, 977])
    assert_agree("Ho et al.", network(x, index), theirs(unet, x, index))
    assert (config.diffusion.schedule, config.diffusion.beta_start, config.diffusion.beta_end) == ("linear", 1e-4, 0.02)
    assert foreign.assumed == {"schedule": "linear", "num_timesteps": 1000}
    back = state_dict(params, tensors(HO, params, heads=lambda width: 1))
    for name, tensor in as_ho(unet).items():
        np.testing.assert_array_equal(back.pop(name), tensor.numpy(), err_msg=name)
    assert not back


def test_a_list_holds_the_trained_and_the_averaged_weights(unet, tmp_path):
    """As DDIM's trainer saves it: model (from several GPUs), optimiser, epoch, step, average."""
    import torch

    averaged = as_ho(unet)
    trained = {f"module.{name}": tensor + 1 for name, tensor in averaged.items()}
    optimiser = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 2e-4}]}
    torch.save([trained, optimiser, 3, 17, averaged], tmp_path / "ckpt.pth")
    import_weights(tmp_path / "ckpt.pth", tmp_path / "run", given={"image_size": 8})
    found = [flat(Run(tmp_path / "run", params=name).params)["conv_out.bias"] for name in ("ema", "raw")]
    np.testing.assert_array_equal(found[0], averaged["conv_out.bias"])
    np.testing.assert_array_equal(found[1], averaged["conv_out.bias"] + 1)


@pytest.mark.parametrize(
    ("channel_mult", "levels", "size", "variance"),
    [((1, 2, 2, 2), (1,), 32, "large"), ((1, 2, 2, 2, 4), (2,), 64, "large"), ((1, 1, 2, 2, 4, 4), (4,), 256, "small")],
)
def test_the_published_networks_are_read_off_their_tensors(channel_mult, levels, size, variance):
    """CIFAR-10, CelebA and the 256x256 networks, as shapes: 128 channels wide, attention at 16x16."""
    shape = lambda *sizes: np.broadcast_to(np.float32(0), sizes)
    weights = {"conv_in.weight": shape(128, 3, 3, 3), "conv_out.weight": shape(3, 128, 3, 3)}
    for level, mult in enumerate(channel_mult):
        for block in range(2):
            weights[f"down.{level}.block.{block}.conv1.weight"] = shape(128 * mult, 128, 3, 3)
    weights |= {f"down.{level}.attn.0.q.weight": shape(256, 256, 1, 1) for level in levels}
    settings = ho.understood(weights, {}).settings
    assert settings["model.channel_mult"] == channel_mult
    assert settings["model.num_res_blocks"] == 2
    assert settings["model.attention_resolutions"] == (16,)
    assert (settings["data.image_size"], settings["sample.variance"]) == (size, variance)


def test_flags_that_mean_nothing_for_the_family_are_refused():
    shape = lambda *sizes: np.broadcast_to(np.float32(0), sizes)
    weights = {"conv_in.weight": shape(32, 3, 3, 3), "conv_out.weight": shape(3, 32, 3, 3)}
    weights |= {"down.0.block.0.conv1.weight": shape(32, 32, 3, 3)}
    assert ho.understood(weights, {"image_size": 8}).settings["model.channels"] == 32
    with pytest.raises(UserError, match=r"^num_heads=2 does not apply to Ho et al\.'s weights"):
        ho.understood(weights, {"image_size": 8, "num_heads": 2})


def test_tensors_without_a_width_are_one_line():
    shape = lambda *sizes: np.broadcast_to(np.float32(0), sizes)
    weights = {"conv_in.weight": shape(0, 3, 3, 3), "down.0.block.0.conv1.weight": shape(0, 0, 3, 3)}
    with pytest.raises(UserError, match=r"not those of Ho et al\.'s network: a base width of 0 does not fit"):
        ho.understood(weights, {})
