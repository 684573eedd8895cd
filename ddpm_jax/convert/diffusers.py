"""A diffusers folder understood: `config.json` and `scheduler_config.json` as settings of ours.

The tables serve both directions. What has no counterpart on the other side is refused with the reason. Their timestep
is the 0-based index that our networks are given too. Read next: `outgoing.py`.
"""

import json
import re
from pathlib import Path

from ddpm_jax.convert.families import DIFFUSERS, DIFFUSERS_OLD_NAMES
from ddpm_jax.convert.files import is_state_dict, read_weights
from ddpm_jax.convert.network import Hints, Network, images
from ddpm_jax.errors import UserError, first_line

KIND = "diffusers"
DEFAULTS = {  # of UNet2DModel
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [224, 448, 672, 896],
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
    "num_train_timesteps": None,
}
_MUST_BE = {
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "mid_block_type": ("UNetMidBlock2D",),
    "mid_block_scale_factor": (1,),
    "act_fn": ("silu", "swish"),
    "add_attention": (True,),
    "class_embed_type": (None,),
}


def _whole(value, most=1_000_000):
    """Whether this is a whole number that some network may have."""
    return type(value) is int and 1 <= value <= most


def _fraction(value):
    """Whether this is a number from 0 to 1."""
    return type(value) in (int, float) and 0 <= value <= 1


def _word(value):
    """Whether this is a string."""
    return type(value) is str


def _each(fits):
    """A test of lists, which are not empty, by a test of their items."""
    return lambda value: type(value) is list and value and all(map(fits, value))


# What the values that are computed with must be, and this in words; the others must be one of a few.
_COUNT = (_whole, "a whole number from 1 to 1,000,000")
_COUNT_OR_NONE = (lambda value: value is None or _whole(value), f"{_COUNT[1]}, or null")
_FRACTION = (_fraction, "a number from 0 to 1")
_NAME = (_word, "a name")
_NAMES = (_each(_word), "a list of names")
_NETWORK_VALUES = {
    "sample_size": _COUNT_OR_NONE,
    "in_channels": _COUNT,
    "out_channels": _COUNT,
    "down_block_types": _NAMES,
    "up_block_types": _NAMES,
    "block_out_channels": (_each(_whole), f"a list, each {_COUNT[1]}"),
    "layers_per_block": (lambda value: _whole(value, most=100), "a whole number from 1 to 100"),
    "downsample_type": _NAME,
    "upsample_type": _NAME,
    "dropout": _FRACTION,
    "attention_head_dim": _COUNT_OR_NONE,
    "norm_num_groups": _COUNT,
    "norm_eps": _FRACTION,
    "num_class_embeds": _COUNT_OR_NONE,
}
_SCHEDULER_VALUES = {
    "num_train_timesteps": _COUNT,
    "beta_start": _FRACTION,
    "beta_end": _FRACTION,
    "variance_type": _NAME,
    "clip_sample": (lambda value: type(value) is bool, "true or false"),
}
# Ours: theirs.
PADDING = {"same": 0, "symmetric": 1}
TIME = {"sin_cos": (False, 1), "cos_sin": (True, 0)}  # flip_sin_to_cos, freq_shift
SCALE_SHIFT = {False: "default", True: "scale_shift"}
SCHEDULE = {"linear": "linear", "quadratic": "scaled_linear", "cosine": "squaredcos_cap_v2", "sigmoid": "sigmoid"}
TARGET = {"eps": "epsilon", "x_0": "sample", "v": "v_prediction"}
VARIANCE = {"small": "fixed_small", "large": "fixed_large", "learned": "learned_range"}
SAMPLER = {"ancestral": "DDPMScheduler", "ddim": "DDIMScheduler"}
# (attention, resampling inside blocks): the blocks on the way down; those on the way up are called alike.
BLOCKS = {(False, False): "DownBlock2D", (True, False): "AttnDownBlock2D", (False, True): "ResnetDownsampleBlock2D"}
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")


def understood(folder, given):
    """The `Network` of a diffusers folder, as `(network, files read)`.

    Args:
      folder: with `config.json` and weights in it, or in `unet/`; the scheduler's settings beside or in `scheduler/`.
      given: `{flag: value}`; only the size of the images may be needed.

    Raises:
      UserError: a file is missing, or the network or its scheduler is one that ours cannot express.
    """
    folder, hints = Path(folder), Hints(given, KIND)
    inner = folder / "unet" if (folder / "unet").is_dir() else folder
    weights = next((inner / name for name in WEIGHTS if (inner / name).is_file()), None)
    if not (inner / "config.json").is_file() or weights is None:
        raise UserError(f"{folder} holds no diffusers model: it needs config.json and {' or '.join(WEIGHTS)}")
    scheduler = [path for path in _scheduler_files(folder) if path.is_file()][:1]
    settings = _network_settings(_read_json(inner / "config.json"), hints)
    settings |= _diffusion_settings(_read_json(scheduler[0]) if scheduler else {}, settings)
    hints.check_all_taken()
    state_dict = read_weights(weights)
    if not is_state_dict(state_dict):
        raise UserError(f"{weights} holds no state dict")
    assumed = hints.assumed if scheduler else {**hints.assumed, "scheduler": "Ho et al. 2020's"}
    network = Network(KIND, DIFFUSERS, settings, _renamed(state_dict), assumed=assumed)
    return network, [inner / "config.json", *scheduler, weights]


def _scheduler_files(folder):
    """Where the scheduler's settings may be."""
    return [folder / "scheduler" / "scheduler_config.json", folder / "scheduler_config.json"]


def _read_json(path):
    """The dict of a JSON file."""
    try:
        content = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no settings")
    return content


def _renamed(state_dict):
    """The attention's layers by their present names."""
    pattern = re.compile(rf"(?<=\.)({'|'.join(DIFFUSERS_OLD_NAMES)})(?=\.(weight|bias)$)")
    present = lambda name: pattern.sub(lambda found: DIFFUSERS_OLD_NAMES[found[0]], name)
    return {present(name): array for name, array in state_dict.items()}


def _network_settings(config, hints):
    """Our settings of a `UNet2DModel`'s."""
    given = {key: value for key, value in config.items() if not key.startswith("_")}
    if config.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise UserError(f"config.json describes a {config['_class_name']}; only UNet2DModel can be expressed")
    unknown = [key for key in given if key not in DEFAULTS]
    if unknown:
        raise UserError(f"config.json has settings that no UNet2DModel has: {', '.join(unknown)}")
    unet = DEFAULTS | given
    _check_values("config.json", unet, _NETWORK_VALUES)
    _check_expressible(unet)
    base, *_ = widths = unet["block_out_channels"]
    size = unet["sample_size"] or hints.image_size(tuple(width // base for width in widths))
    attends, in_block = _levels(unet)
    return {
        **images(size, channels_in=unet["in_channels"], channels_out=unet["out_channels"]),
        "labels.num_classes": unet["num_class_embeds"] or 0,
        "model.channels": base,
        "model.channel_mult": tuple(width // base for width in widths),
        "model.num_res_blocks": unet["layers_per_block"],
        "model.attention_resolutions": tuple(size >> level for level, attend in enumerate(attends) if attend),
        "model.num_heads": 1,
        "model.head_channels": unet["attention_head_dim"] or 0,
        "model.dropout": unet["dropout"],
        "model.scale_shift_norm": _ours(SCALE_SHIFT, unet["resnet_time_scale_shift"], "resnet_time_scale_shift"),
        "model.resample_in_block": in_block,
        "model.padding": _ours(PADDING, unet["downsample_padding"], "downsample_padding"),
        "model.time_embedding": _ours(
            TIME, (unet["flip_sin_to_cos"], unet["freq_shift"]), "(flip_sin_to_cos, freq_shift)"
        ),
        "model.norm_groups": unet["norm_num_groups"],
        "model.norm_epsilon": unet["norm_eps"],
    }


def _check_values(file, settings, values):
    """Raises a UserError that names the first value that is none of its key's."""
    for key, (fits, words) in values.items():
        if key in settings and not fits(settings[key]):
            raise UserError(f"{file}: {key}={settings[key]!r} must be {words}")


def _check_expressible(unet):
    """Raises a UserError for a network that ours cannot be; blocks and tables are checked where they are read."""
    for key, fits in _MUST_BE.items():
        if unet[key] not in fits:
            raise UserError(f"config.json: {key}={unet[key]!r} cannot be expressed, only {fits[0]!r}")
    base, *_ = widths = unet["block_out_channels"]
    if unet["time_embedding_dim"] not in (None, 4 * base) or any(width % base for width in widths):
        raise UserError(
            f"config.json: widths {widths} with time_embedding_dim={unet['time_embedding_dim']} cannot be expressed: "
            "widths are multiples of the first, and the time has four times the first"
        )
    groups, scale_shift = unet["attn_norm_num_groups"], unet["resnet_time_scale_shift"] == "scale_shift"
    if groups != unet["norm_num_groups"] and (groups or scale_shift):  # None is no norm in the middle, with scale-shift
        raise UserError("config.json: attn_norm_num_groups must be norm_num_groups: ours norms all attention alike")


def _levels(unet):
    """Which levels attend, and whether resampling is inside blocks."""
    down, up = unet["down_block_types"], list(reversed(unet["up_block_types"]))
    resnet = {"conv": False, "resnet": True}
    attends, in_block = [], []
    for level, name in enumerate(down):
        kinds = {block: kind for kind, block in BLOCKS.items()}
        if name not in kinds or up[level : level + 1] != [up_block(name)]:
            raise UserError(f"config.json: blocks {down} down and {up[::-1]} up cannot be expressed")
        attend, inside = kinds[name]
        attends.append(attend)
        if attend:
            types = {resnet.get(unet["downsample_type"]), resnet.get(unet["upsample_type"])}
            inside = types == {True}
            if len(types) > 1 or None in types:
                raise UserError("config.json: downsample_type and upsample_type must be both conv or both resnet")
        if level < len(down) - 1:
            in_block.append(inside)
    if len(set(in_block)) > 1:
        raise UserError("config.json: some levels resample inside blocks and some by a convolution")
    return attends, bool(in_block and in_block[0])


def up_block(block):
    """The block on the way up that goes with one on the way down."""
    return block.replace("Downsample", "Upsample").replace("Down", "Up")


def _diffusion_settings(scheduler, network):
    """Our settings of a scheduler's; without any, those that Ho et al. used for images of that size."""
    _check_values("scheduler_config.json", scheduler, _SCHEDULER_VALUES)
    size, learned = network["data.image_size"], network["diffusion.learned_variance"]
    name = scheduler.get("_class_name", "DDPMScheduler")
    refused = {
        "trained_betas": None,
        "thresholding": False,
        "rescale_betas_zero_snr": False,
        "clip_sample_range": 1.0,
    }
    for key, needed in refused.items():
        if scheduler.get(key, needed) != needed:
            raise UserError(f"scheduler_config.json: {key}={scheduler[key]!r} cannot be expressed")
    usual = "learned_range" if learned else "fixed_large" if size <= 64 and not scheduler else "fixed_small"
    variance = scheduler.get("variance_type", usual).replace("fixed_small_log", "fixed_small")
    variance = _ours(VARIANCE, variance, "variance_type")
    if (variance == "learned") != learned:
        raise UserError(
            f"scheduler_config.json: variance_type={scheduler.get('variance_type')!r} does not go with "
            f"{'twice' if learned else 'only'} the image's channels out"
        )
    return {
        "diffusion.num_timesteps": scheduler.get("num_train_timesteps", 1000),
        "diffusion.schedule": _ours(SCHEDULE, scheduler.get("beta_schedule", "linear"), "beta_schedule"),
        "diffusion.beta_start": scheduler.get("beta_start", 1e-4),
        "diffusion.beta_end": scheduler.get("beta_end", 0.02),
        "diffusion.target": _ours(TARGET, scheduler.get("prediction_type", "epsilon"), "prediction_type"),
        "sample.variance": variance,
        "sample.sampler": _ours(SAMPLER, name, "_class_name"),
        "sample.clip_x_0": scheduler.get("clip_sample", True),
    }


def _ours(table, theirs, key):
    """Our value of theirs."""
    for ours, value in table.items():
        if value == theirs and type(value) is type(theirs):
            return ours
    known = ", ".join(str(value) for value in table.values())
    raise UserError(f"{key}={theirs!r} cannot be expressed; this can: {known}")
