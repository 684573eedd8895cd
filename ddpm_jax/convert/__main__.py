"""Published weights as runs, and runs as diffusers folders.

  python -m ddpm_jax.convert FROM --out=WORKDIR                     a run of FROM: a diffusers folder, a .pt or a .ckpt
  python -m ddpm_jax.convert WORKDIR --to=diffusers --out=FOLDER    a diffusers folder of a run

docs/weights.md has the command for each published file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags

from ddpm_jax import errors
from ddpm_jax.commands import cli
from ddpm_jax.errors import UserError
from ddpm_jax.factory import SCHEDULES
from ddpm_jax.runtime.paths import as_flag, holds_checkpoints, local_path

OUT: flags.FlagHolder[str] = flags.DEFINE(
    cli.PathParser(), "out", None, "What to make: a run directory, or a folder; must be new.", required=True
)
TO: flags.FlagHolder[str | None] = flags.DEFINE_enum(
    "to", None, ["diffusers"], "Write a run in this format (default: read FROM into a run)."
)
PARAMS: flags.FlagHolder[str] = flags.DEFINE_enum(
    "params", "ema", ["ema", "raw"], "With --to: averaged parameters, or of the last step."
)
HINTS: list[flags.FlagHolder[Any]] = [  # for what the weights may leave open
    flags.DEFINE_integer("image_size", None, "Side of the images in pixels.", lower_bound=1),
    flags.DEFINE_integer("num_heads", None, "Attention heads (OpenAI's U-Nets).", lower_bound=1),
    flags.DEFINE_integer("head_channels", None, "Channels of an attention head, instead.", lower_bound=1),
    flags.DEFINE_enum(
        "attention_order",
        None,
        ["interleaved", "new"],
        "Of queries, keys and values in a tensor: new for use_new_attention_order.",
    ),
    flags.DEFINE_enum("schedule", None, sorted(SCHEDULES), "Noise schedule that the network was trained with."),
    flags.DEFINE_integer("num_timesteps", None, "T of it.", lower_bound=1, upper_bound=1_000_000),
    flags.DEFINE_float("time_scale", None, "What the network's time is multiplied with: 1000/T for rescale_timesteps."),
]


def main(path: str) -> None:
    """Converts the weights at `path`, and prints what was written and which commands can follow."""
    given = {flag.name: flag.value for flag in HINTS if flag.value is not None}
    if TO.value:
        if given:
            raise UserError(f"--{next(iter(given))} is for reading weights; a run's configuration says it")
        return write(path)
    if flags.FLAGS["params"].present:
        raise UserError("--params is for --to=diffusers; a run made of weights has both")
    read(path, given)


def read(path: str, given: Mapping[str, Any]) -> None:
    """Makes a run from foreign weights; `given` is `{flag: value}` for what they leave open."""
    from ddpm_jax.convert.incoming import import_weights, training_flags

    out = OUT.value
    network, config, num_params = import_weights(path, out, given=given)
    print(f"wrote {out}: {num_params:,} parameters of {network.kind} weights")
    if network.assumed:
        assumed = ", ".join(f"{name}={value}" for name, value in network.assumed.items())
        print(f"assumed, for the weights do not tell: {assumed}")
    for note in network.notes:
        print(f"note: {note}")
    workdir = as_flag("workdir", out)
    if config.task == "denoise":
        print(f"draw with:\n  {errors.program('sample')} {workdir}")
        print(f"measure with:\n  {errors.program('evaluate')} {workdir} --metrics=bpd --data_path=FOLDER")
    else:
        guide = as_flag("classifier_workdir", out)
        print(f"guide with:\n  {errors.program('sample')} --workdir=DENOISER {guide} --labels=0")
    train = " ".join([f"{errors.program('train')} --config=base", workdir, *training_flags(config)])
    print(f"train on with:\n  {train} --config.data.path=FOLDER")


def write(path: str) -> None:
    """Writes the run at `path` as a diffusers folder."""
    from ddpm_jax.convert.files import check_new, reading
    from ddpm_jax.convert.outgoing import export_diffusers
    from ddpm_jax.runs.run import Run

    check_new(OUT.value)
    with reading(path):
        if is_foreign(local_path(path)):
            raise UserError(
                f"{path} holds published weights and no run: leave --to=diffusers out to make a run of them"
            )
        assert PARAMS.value in ("ema", "raw")
        run = Run(path, params=PARAMS.value)
    export_diffusers(run, OUT.value)
    print(f"wrote {OUT.value} (step {run.step:,}, {PARAMS.value} parameters)")


def is_foreign(path: Path) -> bool:
    """Whether the path holds foreign weights and not a run."""
    names = ("model_index.json", "config.json", "unet", "unet_ema")
    return path.is_file() or (
        any((path / name).exists() for name in names) and not holds_checkpoints(path / "checkpoints")
    )


def command() -> None:
    """Runs the program."""
    cli.run(main, module=__name__, argument="what to convert")


if __name__ == "__main__":
    command()
