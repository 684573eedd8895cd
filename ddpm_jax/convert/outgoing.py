"""Export of a run as a diffusers folder with a model card, which `DDPMPipeline.from_pretrained` opens.

Read next: `__main__.py`.
"""

import json
import os
from collections.abc import Sequence
from typing import Any

import safetensors.numpy
from ml_collections import ConfigDict

from ddpm_jax.config import CUSTOM, denoises
from ddpm_jax.convert.card import model_card
from ddpm_jax.convert.diffusers import BLOCKS, DEFAULTS, PADDING, SCALE_SHIFT, TIME, up_block
from ddpm_jax.convert.families import DIFFUSERS
from ddpm_jax.convert.files import new_folder
from ddpm_jax.convert.folders import WEIGHTS
from ddpm_jax.convert.loader import state_dict
from ddpm_jax.convert.names import tensors
from ddpm_jax.convert.schedulers import SCHEDULE, SPACING, TARGET, VARIANCE
from ddpm_jax.errors import UserError, shortened
from ddpm_jax.models.classifier import Classifier
from ddpm_jax.models.unet import UNet
from ddpm_jax.runs.run import Run
from ddpm_jax.runtime.paths import any_path
from ddpm_jax.runtime.storage import write_bytes


def export_diffusers(run: Run, out: str | os.PathLike[str]) -> None:
    """Writes a run's network and scheduler as a diffusers folder with a model card.

    Args:
      run: the run to export.
      out: the folder, which must be new.

    Raises:
      UserError: `run` is not an opened run, diffusers cannot express the network, or `out` exists already or cannot be
        written.
    """
    if not isinstance(run, Run):
        raise UserError(f"export_diffusers needs an opened run: Run({shortened(str(run))!r})")
    model = run.model
    if run.config.network == CUSTOM or not isinstance(model, UNet | Classifier):
        raise UserError(f"diffusers has no form for the network of {run.workdir}, which a program has defined")
    settings = {
        "model_index.json": {
            "_class_name": "DDPMPipeline",
            "unet": ["diffusers", "UNet2DModel"],
            "scheduler": ["diffusers", "DDPMScheduler"],
        },
        "unet/config.json": network_config(run.config, model),
        "scheduler/scheduler_config.json": scheduler_config(run.config),
    }
    assert isinstance(run.params, dict), "a denoiser has no posterior"
    table = tensors(DIFFUSERS, run.params, heads=model.arch.heads)
    with new_folder(out) as folder:
        for name, content in settings.items():
            write_bytes(folder / name, f"{json.dumps(content, indent=2, allow_nan=False)}\n".encode())
        weights = state_dict(run.params, table)
        write_bytes(folder / "unet" / WEIGHTS[0], safetensors.numpy.save(weights, metadata={"format": "pt"}))
        size = sum(array.size for array in weights.values())
        card = model_card(run, any_path(out).name, pipelines=pipelines(run.config), num_params=size)
        write_bytes(folder / "README.md", card.encode(errors="backslashreplace"))


def network_config(config: ConfigDict, model: UNet | Classifier) -> dict[str, Any]:
    """The settings of the `UNet2DModel` that is equivalent to our network.

    Args:
      config: the configuration of a run.
      model: its network; a classifier is refused.

    Raises:
      UserError: diffusers cannot express the network; the message says why.
    """
    data, arch = config.data, config.model
    if not denoises(config):
        raise UserError("diffusers has no classifiers of noisy images: only denoisers can be converted")
    if arch.get("time_scale", 1.0) != 1:
        raise UserError(f"diffusers does not support a scaled time: config.model.time_scale={arch.time_scale:g}")
    if arch.get("time_offset", 0.0):
        raise UserError(f"DDPMScheduler does not support another time: config.model.time_offset={arch.time_offset:g}")
    attends = [data.image_size >> level in arch.attention_resolutions for level in range(len(arch.channel_mult))]
    flip, shift = TIME[arch.time_embedding]
    blocks = [BLOCKS[attend, arch.resample_in_block and not attend] for attend in attends]
    resampling = "resnet" if arch.resample_in_block else "conv"
    return {
        "_class_name": "UNet2DModel",
        **DEFAULTS,
        "sample_size": data.image_size,
        "in_channels": data.channels,
        "out_channels": model.out_channels,
        "freq_shift": shift,
        "flip_sin_to_cos": flip,
        "down_block_types": blocks,
        "up_block_types": [up_block(block) for block in reversed(blocks)],
        "block_out_channels": [arch.channels * mult for mult in arch.channel_mult],
        "layers_per_block": arch.num_res_blocks,
        "downsample_padding": PADDING[arch.padding],
        "downsample_type": resampling,
        "upsample_type": resampling,
        "dropout": arch.dropout,
        "attention_head_dim": _head_width(arch, attends),
        "norm_num_groups": arch.norm_groups,
        "attn_norm_num_groups": arch.norm_groups,
        "norm_eps": arch.norm_epsilon,
        "resnet_time_scale_shift": SCALE_SHIFT[arch.scale_shift_norm],
        "num_class_embeds": model.num_classes or None,
    }


def _head_width(arch: ConfigDict, attends: Sequence[bool]) -> int | None:
    """Channels of an attention head, for which diffusers has one number; None means one head of any width.

    Args:
      arch: `config.model`.
      attends: whether each level has attention.

    Raises:
      UserError: the levels with attention differ in the width of a head.
    """
    if arch.head_channels or arch.num_heads == 1:
        return arch.head_channels or None
    mults = {mult for mult, attend in zip(arch.channel_mult, attends, strict=True) if attend} | {arch.channel_mult[-1]}
    if len(mults) > 1:
        raise UserError(
            "diffusers needs the same number of channels in all attention heads, but "
            f"config.model.num_heads={arch.num_heads} divides several widths: "
            f"{', '.join(str(arch.channels * mult) for mult in sorted(mults))}"
        )
    return arch.channels * arch.channel_mult[-1] // arch.num_heads


def scheduler_config(config: ConfigDict) -> dict[str, Any]:
    """The settings of the `DDPMScheduler` that samples as the run does.

    Raises:
      UserError: diffusers does not support the noise schedule, or what the network regresses.
    """
    diffusion, sample = config.diffusion, config.sample
    # The analytic variance needs measurements, which diffusers has not; it is between the small and the large one.
    variance = VARIANCE.get("learned" if diffusion.learned_variance else sample.variance, "fixed_small")
    known = {"schedule": SCHEDULE, "target": TARGET, "shift": (1,)}
    if unsupported := [key for key in known if diffusion[key] not in known[key]]:
        setting = f"config.diffusion.{unsupported[0]}={diffusion[unsupported[0]]}"
        raise UserError(f"diffusers' DDPMScheduler does not support {setting}: this run cannot be exported")
    return {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": diffusion.num_timesteps,
        "beta_schedule": SCHEDULE[diffusion.schedule],
        "beta_start": diffusion.beta_start,
        "beta_end": diffusion.beta_end,
        "rescale_betas_zero_snr": diffusion.zero_terminal_snr,
        "prediction_type": TARGET[diffusion.target],
        "variance_type": variance,
        "clip_sample": sample.clip_x_0,
        "clip_sample_range": 1.0,
        "timestep_spacing": spacing(config),
    }


def spacing(config: ConfigDict) -> str:
    """The spacing with which diffusers' `DDPMScheduler` takes the steps of our grid of that name, in any number.

    It is that of the run's grid where diffusers has it. With `trailing`, `DDPMScheduler` adds noise in the last step of
    a shortened chain, unless the variance is the small one, which is 0 there: such a run gets `linspace`, and so does
    one of another grid.
    """
    small = config.sample.variance == "small" and not config.diffusion.learned_variance
    chosen = SPACING.get(config.sample.grid, "linspace")
    return "linspace" if chosen == "trailing" and not small else chosen


def pipelines(config: ConfigDict) -> list[str]:
    """The names of the diffusers pipelines that can sample from an exported run; none for a class-conditional one."""
    ddim = not config.diffusion.learned_variance and config.diffusion.schedule != "sigmoid"
    return [] if config.labels.num_classes else ["DDPMPipeline"] + ["DDIMPipeline"] * ddim
