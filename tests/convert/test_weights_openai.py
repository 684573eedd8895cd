"""OpenAI's networks: recorded outputs, architectures read off tensors, every tensor accounted for."""

import jax
import numpy as np
import pytest
from support.weights import GIVEN, GOLDEN, assert_agree, opened, read_golden

from ddpm_jax import factory
from ddpm_jax.config import experiment
from ddpm_jax.convert import openai
from ddpm_jax.convert.families import OPENAI
from ddpm_jax.convert.loader import state_dict
from ddpm_jax.convert.names import tensors

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize("name", list(GIVEN))
def test_recorded_networks_give_their_recorded_output(name):
    settings, _, arrays = read_golden(name)
    config, network, _, _ = opened(GOLDEN / f"{name}.safetensors", **GIVEN[name])
    args = (arrays["x"], arrays["t"], *([arrays["y"]] if "y" in arrays else []))
    assert_agree(f"OpenAI, {name}", network(*args), arrays["out"])
    assert config.data.image_size == settings["image_size"]
    assert config.labels.num_classes == (
        settings["out_channels"] if name == "classifier" else settings.get("num_classes", 0)
    )


@pytest.mark.parametrize("name", list(GIVEN))
def test_import_then_export_returns_every_tensor_bit_for_bit(name):
    _, weights, _ = read_golden(name)
    config, _, params, _ = opened(GOLDEN / f"{name}.safetensors", **GIVEN[name])
    back = state_dict(params, tensors(OPENAI, params, heads=factory.network(config).arch.heads))
    assert back.keys() == weights.keys()
    for tensor, array in weights.items():
        np.testing.assert_array_equal(back[tensor], array, err_msg=tensor)
        assert back[tensor].dtype == array.dtype


IMPROVED = {
    "model.padding": "symmetric",
    "model.time_embedding": "cos_sin",
    "model.norm_epsilon": 1e-5,
    "model.scale_shift_norm": True,
    "model.num_heads": 4,
    "model.num_res_blocks": 3,
    "model.attention_resolutions": (16, 8),
    "diffusion.learned_variance": True,
    "diffusion.schedule": "cosine",
    "diffusion.num_timesteps": 4000,
    "model.time_scale": 0.25,
}
ADM = {
    **IMPROVED,
    "model.num_heads": 1,
    "model.head_channels": 64,
    "model.num_res_blocks": 2,
    "model.channels": 256,
    "model.resample_in_block": True,
    "model.attention_resolutions": (32, 16, 8),
    "diffusion.schedule": "linear",
    "diffusion.num_timesteps": 1000,
    "model.time_scale": 1.0,
}
CLASSIFIER = {
    **ADM,
    "task": "classify",
    "labels.num_classes": 1000,
    "model.channels": 128,
    "diffusion.learned_variance": False,
}
PUBLISHED = {
    "cifar10_uncond_50M_500K": (IMPROVED, {}),
    "imagenet64_uncond_100M_1500K": (
        {**IMPROVED, "data.image_size": 64, "model.channel_mult": (1, 2, 3, 4)},
        {},
    ),
    "imagenet64_cond_270M_250K": (
        {
            **IMPROVED,
            "data.image_size": 64,
            "model.channel_mult": (1, 2, 3, 4),
            "model.channels": 192,
            "labels.num_classes": 1000,
            "model.time_scale": 1.0,
        },
        {},
    ),
    "lsun_uncond_100M_1200K_bs128": (
        {
            **IMPROVED,
            "data.image_size": 256,
            "model.channel_mult": (1, 1, 2, 2, 4, 4),
            "model.num_res_blocks": 2,
            "model.num_heads": 1,
            "model.attention_resolutions": (16,),
            "model.scale_shift_norm": False,
            "diffusion.schedule": "linear",
            "diffusion.num_timesteps": 1000,
            "model.time_scale": 1.0,
        },
        {},
    ),
    "64x64_diffusion": (
        {
            **ADM,
            "data.image_size": 64,
            "model.channel_mult": (1, 2, 3, 4),
            "model.channels": 192,
            "model.num_res_blocks": 3,
            "labels.num_classes": 1000,
            "diffusion.schedule": "cosine",
        },
        {"attention_order": "new"},
    ),
    "128x128_diffusion": (
        {
            **ADM,
            "data.image_size": 128,
            "model.channel_mult": (1, 1, 2, 3, 4),
            "labels.num_classes": 1000,
            "model.num_heads": 4,
            "model.head_channels": 0,
        },
        {"num_heads": 4},
    ),
    "256x256_diffusion_uncond": ({**ADM, "data.image_size": 256, "model.channel_mult": (1, 1, 2, 2, 4, 4)}, {}),
    "64x64_classifier": (
        {
            **CLASSIFIER,
            "data.image_size": 64,
            "model.channel_mult": (1, 2, 3, 4),
            "model.num_res_blocks": 4,
            "diffusion.schedule": "cosine",
        },
        {},
    ),
    "128x128_classifier": ({**CLASSIFIER, "data.image_size": 128, "model.channel_mult": (1, 1, 2, 3, 4)}, {}),
    "256x256_classifier": ({**CLASSIFIER, "data.image_size": 256, "model.channel_mult": (1, 1, 2, 2, 4, 4)}, {}),
}


def foreign_shapes(settings):
    """The tensors of OpenAI's network with these settings, as arrays that take no memory."""
    config = experiment("base").unlock()
    config.update_from_flattened_dict(settings)
    model = factory.network(config)
    shapes = jax.eval_shape(factory.initial_params(config, model), jax.random.key(0))
    table = tensors(OPENAI, shapes, heads=model.arch.heads)
    return {tensor.name: np.broadcast_to(np.float32(0), tensor.shape) for tensor in table}


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_published_architectures_are_read_off_their_tensors(name):
    settings, given = PUBLISHED[name]
    found = openai.understood(foreign_shapes(settings), given).settings
    assert {key: found.get(key, value) for key, value in settings.items() if key in found} == {
        key: value for key, value in settings.items() if key in found
    }
    assert {key for key in settings if key.startswith("model.")} <= found.keys()
