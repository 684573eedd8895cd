"""Converts published weights of diffusion models into a run of this library, or such a run into a diffusers folder.

  python -m ddpm_jax.convert FROM --out=WORKDIR                     makes a run from published weights
  python -m ddpm_jax.convert WORKDIR --to=diffusers --out=FOLDER    makes a folder for Hugging Face diffusers from a run

A run is a directory with checkpoints, as train.py makes it: sample.py draws images from it, evaluate.py measures it,
and train.py trains it further. FROM is one of the following, already downloaded to this machine:

  a folder     of Hugging Face diffusers, with a UNet2DModel: config.json and weights, there or in unet/
  a .pt file   of OpenAI's improved-diffusion or guided-diffusion: a denoiser or a classifier
  a .ckpt file of the DDPM models of Ho et al. 2020 in the form for PyTorch, or of the code of DDIM

The network is read from the files. Files of the last two kinds leave some settings open, such as the noise schedule:
the program assumes those of the published models and prints what it assumed. The flags --image_size, --num_heads,
--head_channels, --attention_order, --schedule, --num_timesteps and --time_scale give other values. docs/weights.md has
the command for each published file. No code in the files is run.
"""

from collections.abc import Mapping
from typing import Any

from absl import flags

from ddpm_jax import errors
from ddpm_jax.commands import cli
from ddpm_jax.config import denoises
from ddpm_jax.errors import UserError, reading
from ddpm_jax.factory import SCHEDULES
from ddpm_jax.runtime import storage
from ddpm_jax.runtime.buckets import AnyPath
from ddpm_jax.runtime.paths import any_path, as_flag, holds_checkpoints

OUT: flags.FlagHolder[str] = flags.DEFINE(
    cli.PathParser(),
    "out",
    None,
    "The directory to write: a run or, with --to=diffusers, a diffusers folder. It must be new or empty.",
    required=True,
)
TO: flags.FlagHolder[str | None] = flags.DEFINE_enum(
    "to", None, ["diffusers"], "The format to convert a run into (default: published weights are made into a run)."
)
PARAMS: flags.FlagHolder[str] = flags.DEFINE_enum(
    "params",
    "ema",
    ["ema", "raw"],
    "Which parameters --to=diffusers writes: ema for the averaged ones, raw for those of the last step.",
)
HINTS: list[flags.FlagHolder[Any]] = [  # for what the weights may leave open
    flags.DEFINE_integer("image_size", None, "The height and width of the model's images in pixels.", lower_bound=1),
    flags.DEFINE_integer(
        "num_heads",
        None,
        "The number of attention heads, for OpenAI's networks; or give --head_channels.",
        lower_bound=1,
    ),
    flags.DEFINE_integer(
        "head_channels",
        None,
        "The number of channels per attention head, for OpenAI's networks; or give --num_heads.",
        lower_bound=1,
    ),
    flags.DEFINE_enum(
        "attention_order",
        None,
        ["interleaved", "new"],
        "The order of queries, keys and values in the attention tensors of OpenAI's networks: new if the network was "
        "trained with use_new_attention_order=True, else interleaved.",
    ),
    flags.DEFINE_enum("schedule", None, sorted(SCHEDULES), "The noise schedule that the network was trained with."),
    flags.DEFINE_integer(
        "num_timesteps",
        None,
        "The number of time steps T of the noise schedule.",
        lower_bound=1,
        upper_bound=1_000_000,
    ),
    flags.DEFINE_float(
        "time_scale",
        None,
        "The factor of the time step that OpenAI's networks receive: 1000/T if the network was trained with "
        "rescale_timesteps=True, else 1.",
    ),
]


def main(path: str) -> None:
    """Converts the weights at `path`, and prints what was written and which commands can follow."""
    given = {flag.name: flag.value for flag in HINTS if flag.value is not None}
    if TO.value:
        if given:
            raise UserError(
                f"--{next(iter(given))} cannot be combined with --to=diffusers: it is read from the run; leave it out"
            )
        return write(path)
    if flags.FLAGS["params"].present:
        raise UserError("--params applies only with --to=diffusers: a run keeps both sets of parameters; leave it out")
    read(path, given)


def read(path: str, given: Mapping[str, Any]) -> None:
    """Makes a run from foreign weights; `given` is `{flag: value}` for what they leave open."""
    from ddpm_jax.convert.incoming import import_weights, training_flags

    out = OUT.value
    network, config, num_params = import_weights(path, out, given=given)
    print(f"wrote {out}: {num_params:,} parameters of {network.kind} weights")
    if network.assumed:
        assumed = ", ".join(f"{name}={value}" for name, value in network.assumed.items())
        print(f"assumed, because the weights do not show it: {assumed}")
    for note in network.notes:
        print(f"note: {note}")
    workdir = as_flag("workdir", out)
    if denoises(config):
        print(f"draw images with:\n  {errors.program('sample')} {workdir}")
        print(f"measure it with:\n  {errors.program('evaluate')} {workdir} --metrics=bpd --data_path=FOLDER")
    else:
        guide = as_flag("classifier_workdir", out)
        print(f"guide a denoiser with it:\n  {errors.program('sample')} --workdir=DENOISER {guide} --labels=0")
    train = " ".join([f"{errors.program('train')} --config=base", workdir, *training_flags(config)])
    print(f"train it further with:\n  {train} --config.data.path=FOLDER")


def write(path: str) -> None:
    """Writes the run at `path` as a diffusers folder."""
    from ddpm_jax.convert.files import check_new
    from ddpm_jax.convert.outgoing import export_diffusers
    from ddpm_jax.runs.run import Run

    check_new(OUT.value)
    with reading(path):
        if is_foreign(any_path(path)):
            raise UserError(
                f"{path} holds published weights and not a run: leave --to=diffusers out to make a run from them"
            )
        assert PARAMS.value in ("ema", "raw")
        run = Run(path, params=PARAMS.value)
    export_diffusers(run, OUT.value)
    print(f"wrote {OUT.value} (step {run.step:,}, {PARAMS.value} parameters)")


def is_foreign(path: AnyPath) -> bool:
    """Whether the path holds foreign weights and not a run; raises a `UserError` if that cannot be known."""
    names = ("model_index.json", "config.json", "unet", "unet_ema")
    with reading(path):
        if not storage.is_dir(path):
            return storage.exists(path)
        return any(name in names for name in storage.names(path)) and not holds_checkpoints(path / "checkpoints")


def command() -> None:
    """Runs the program."""
    cli.run(main, module=__name__, argument="the file or folder to convert")


if __name__ == "__main__":
    command()
