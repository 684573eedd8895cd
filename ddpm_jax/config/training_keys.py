"""The configuration keys of a training: its steps, devices, checkpoints and log. Read next: `schema.py`."""

from ddpm_jax.config.keys import COUNT, FRACTION, NAMES, NOT_NEGATIVE, SEVERAL, STEPS, Key

OPTIM = {
    "learning_rate": Key(2e-4, "learning rate of Adam after the warm-up", NOT_NEGATIVE),
    "warmup_steps": Key(5000, "steps of linear warm-up from 0", NOT_NEGATIVE),
    "decay_steps": Key(
        0,
        "steps after the warm-up in which the learning rate falls linearly to 0; 0 for a constant rate; "
        "distil.method=progressive restarts warm-up and decay in each stage",
        NOT_NEGATIVE,
    ),
    "grad_clip": Key(1.0, "global norm to which gradients are clipped; 0 for no clipping", NOT_NEGATIVE),
    "beta_1": Key(0.9, "decay of Adam's first moment", FRACTION),
    "beta_2": Key(0.999, "decay of Adam's second moment", FRACTION),
    "epsilon": Key(1e-8, "Adam's epsilon", NOT_NEGATIVE),
    "ema_decay": Key(
        0.9999, "decay of the average of the parameters: min(decay, (1 + n) / (10 + n)) at step n", FRACTION
    ),
}
TRAIN = {
    "batch_size": Key(128, "images per step, over all devices and hosts", COUNT),
    "num_steps": Key(800_000, "number of optimiser steps", COUNT),
    "accumulation": Key(1, "parts of a batch that are computed one after the other, to save memory", COUNT),
    "on_divergence": Key(
        "stop",
        "if a step diverges; skip: its batch is passed over; rollback: the run returns to an earlier checkpoint and "
        "passes over the latest batches",
        choices=("stop", "skip", "rollback"),
    ),
    "divergence_threshold": Key(
        0.0,
        "a step also diverges if its loss or gradient norm exceeds the median of the last 101 steps by this many "
        "median absolute deviations; 0: only if a number is not finite",
        NOT_NEGATIVE,
    ),
    "rollback_batches": Key(
        1, "batches that a roll-back passes over: the one of the step that diverged, and those just before it", COUNT
    ),
    "max_passed_over": Key(20, "batches of a run that may be passed over before a divergence ends it", COUNT),
    "pass_over": Key((), "steps whose batch is passed over; roll-backs add theirs", STEPS),
}
MESH = {
    "fsdp": Key(1, "devices over which parameters, averages and optimiser state are sharded; 1: a copy on each", COUNT),
}
CHECKPOINT = {
    "every": Key(10_000, "steps between regular checkpoints", COUNT),
    "every_minutes": Key(
        10.0, "minutes after the last save at which the run is saved too; 0 for steps alone", NOT_NEGATIVE
    ),
    "keep": Key(3, "number of the latest regular checkpoints that are kept; the newest two of all are kept too", COUNT),
    "keep_every": Key(100_000, "steps between checkpoints that are never deleted; 0 for none", NOT_NEGATIVE),
    "best": Key(
        "none",
        "number of the log at whose lowest value the run is kept too, in WORKDIR/best, a work directory of its own",
        choices=("none", "held_out_loss", "fd"),
    ),
}
LOG = {
    "every": Key(100, "steps between lines of the log", COUNT),
    "sinks": Key(
        ("tensorboard",),
        "where lines and previews go besides the work directory's own log; tensorboard: WORKDIR/tensorboard; wandb: "
        "Weights & Biases; mlflow: MLFLOW_TRACKING_URI",
        NAMES,
        choices=("tensorboard", "wandb", "mlflow"),
    ),
    "held_out_every": Key(
        500,
        "steps between measurements of the loss of the averaged parameters on held-out images; 0 for none",
        NOT_NEGATIVE,
    ),
    "preview_every": Key(
        10_000,
        "steps between previews (grids of samples of 1 or 3 channels, raw and averaged parameters); 0 for none",
        NOT_NEGATIVE,
    ),
    "preview_images": Key(64, "images per preview", COUNT),
    "preview_steps": Key(100, "steps of the chain that draws a preview", COUNT),
    "stacks_after": Key(
        10.0,
        "the stack of every thread is written to stderr if no step ends for five minutes and for this many times the "
        "longest time between two steps so far; 0 for never",
        NOT_NEGATIVE,
    ),
    "quality_every": Key(
        0, "steps between measurements of the Frechet distance of samples to the data; 0 for none", NOT_NEGATIVE
    ),
    "quality_images": Key(2_000, "samples per measurement", SEVERAL),
    "quality_steps": Key(20, "steps of the chain that draws them", COUNT),
    "quality_features": Key(
        "pixels", "features that are compared: those of evaluate.py --features, such as the directory of a classifier"
    ),
}
