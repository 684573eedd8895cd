"""The flags that choose a run's parameters and its chain, which every program that draws images has."""

from typing import TYPE_CHECKING

from absl import flags

from ddpm_jax.commands import cli
from ddpm_jax.config import KEYS
from ddpm_jax.errors import UserError

if TYPE_CHECKING:
    from ddpm_jax.runs.run import Run

SEED = flags.DEFINE_integer(
    "seed", 0, "The seed of the random numbers; each seed gives other images.", lower_bound=0, upper_bound=2**32 - 1
)
PARAMS = flags.DEFINE_enum(
    "params", "ema", ["ema", "raw"], "ema for the averaged parameters, raw for the parameters of the last step."
)
NUM_STEPS = flags.DEFINE_integer(
    "num_steps",
    0,
    "The number of steps of the chain, or of the solver of a metric (default: that of the run or of the metric).",
    lower_bound=0,
)
SAMPLER = flags.DEFINE_enum(
    "sampler", None, sorted(KEYS["sample.sampler"].choices), "The sampler (default: the run's)."
)
VARIANCE = flags.DEFINE_enum(
    "variance",
    None,
    KEYS["sample.variance"].choices,
    "The variance of a reverse step, with --sampler=ancestral (default: the run's).",
)
ETA = flags.DEFINE_float(
    "eta",
    None,
    "The amount of noise in --sampler=ddim, from 0 (deterministic) to 1 (as ancestral) (default: the run's).",
)
GRID = flags.DEFINE_enum(
    "grid", None, sorted(KEYS["sample.grid"].choices), "The spacing of the chain's time steps (default: the run's)."
)
CORRECTOR_STEPS = flags.DEFINE_integer(
    "corrector_steps",
    None,
    "The number of Langevin corrector steps after each step of the sampler (default: the run's).",
    lower_bound=0,
)
CHURN = flags.DEFINE_float(
    "churn",
    None,
    "The share by which the noise is increased before each step, such as 0.2; 0 for none (default: the run's).",
    lower_bound=0,
)
RESTARTS = flags.DEFINE_integer(
    "restarts",
    None,
    "How often noise is added again near the end of the chain, from config.sample.restart_low up to restart_high; 0 "
    "for never (default: the run's).",
    lower_bound=0,
)
LABELS = flags.DEFINE_string(
    "labels",
    None,
    "Classes, by name or number, which the images take in turn, such as cat or 0,1,2; all for every class, none for "
    "unconditional images (default: all, if the model has classes).",
)
GUIDANCE_SCALE = flags.DEFINE_float(
    "guidance_scale",
    None,
    "The scale 1 + w of classifier-free guidance: 0 is unconditional, 1 conditional, above 1 guided "
    "(default: the run's).",
    lower_bound=0,
)
CLASSIFIER_WORKDIR = flags.DEFINE(
    cli.PathParser(), "classifier_workdir", None, "The directory of the run of a classifier that guides the chain."
)
CLASSIFIER_SCALE = flags.DEFINE_float(
    "classifier_scale",
    None,
    "The factor of the classifier's gradient: 0 for none, 1 for the gradient itself (default: the run's).",
    lower_bound=0,
)
CLASSIFIER_ON = flags.DEFINE_enum(
    "classifier_on",
    None,
    KEYS["sample.classifier_on"].choices,
    "What this gradient shifts: the estimate, for any sampler, or the mean of the ancestral step (default: the run's).",
)
CLIP_ORDER = flags.DEFINE_enum(
    "clip_order",
    None,
    KEYS["sample.clip_order"].choices,
    "Whether the estimate of the clean image is clipped after guidance or before (default: the run's).",
)


def opened_run(workdir: str) -> "Run":
    """The run, with everything that the flags change in its chain.

    Raises:
      UserError: a flag would have no effect, or as `Run`, `Run.configure` and `Run.guide`.
    """
    from ddpm_jax.runs.run import Run

    for flag in (CLASSIFIER_SCALE, CLASSIFIER_ON):
        if flag.value is not None and not CLASSIFIER_WORKDIR.value:
            raise UserError(f"--{flag.name} needs --classifier_workdir=DIR, the directory of the classifier's run")
    assert PARAMS.value in ("ema", "raw")
    run = Run(workdir, params=PARAMS.value)
    if CLASSIFIER_WORKDIR.value:
        run.guide(Run(CLASSIFIER_WORKDIR.value))
    run.configure(
        sampler=SAMPLER.value,
        variance=VARIANCE.value,
        eta=ETA.value,
        grid=GRID.value,
        corrector_steps=CORRECTOR_STEPS.value,
        churn=CHURN.value,
        restarts=RESTARTS.value,
        labels=LABELS.value,
        guidance_scale=GUIDANCE_SCALE.value,
        classifier_scale=CLASSIFIER_SCALE.value,
        classifier_on=CLASSIFIER_ON.value,
        clip_order=CLIP_ORDER.value,
    )
    _check_sampler(run.config.sample.sampler)
    return run


def _check_sampler(sampler: str) -> None:
    """Raises a UserError where a flag belongs to a sampler other than the one that is used."""
    for flag, owner in ((ETA, "ddim"), (VARIANCE, "ancestral")):
        if flag.value is not None and sampler != owner:
            raise UserError(f"--{flag.name} applies only to --sampler={owner}, and the sampler is {sampler}")
