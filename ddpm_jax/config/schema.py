"""Every configuration key: default, meaning, rule or choices, and whether a resumed run may change it.

From this come the base configuration, the checks, `python train.py --help_config` and `docs/configuration.md`, which
`python -m ddpm_jax.config` prints. A key is overridden on the command line by its path,
`--config.optim.learning_rate=1e-4`. Every checkpoint of a run contains the values, for sampling too.
"""

import dataclasses

from ddpm_jax.config.keys import (
    BOX,
    COUNT,
    COUNTS,
    CUSTOM,
    FRACTION,
    INTEGERS,
    NAMES,
    NOT_NEGATIVE,
    POSITIVE,
    SEED,
    SHARE,
    Group,
    Key,
)
from ddpm_jax.config.needs import needs_of
from ddpm_jax.config.student_keys import DISTIL, TEACHER
from ddpm_jax.config.training_keys import CHECKPOINT, LOG, MESH, OPTIM, TRAIN

GENERAL = {
    "name": Key("base", "names the default work directory, runs/NAME", fixed=False),
    "task": Key(
        "denoise",
        "what is trained; distil: a denoiser of few steps; classify: on noisy images, to guide a denoiser",
        choices=("denoise", "distil", "classify"),
    ),
    "seed": Key(0, "seed of all randomness: initialisation, data order, times, noise, dropout", SEED),
    "network": Key(
        "configured",
        "configured: as config.model says; custom: given to train() by a program",
        choices=("configured", CUSTOM),
    ),
}
DATA = {
    "source": Key(
        "folder",
        "digits: built in; folder: of images; tfds: a prepared data set; custom: given to train() by a program",
        choices=("digits", "folder", "tfds", CUSTOM),
    ),
    "path": Key("", 'folder: its path; tfds: the data_dir ("" for ~/tensorflow_datasets)', fixed=False),
    "name": Key("", 'tfds: name of the data set, such as "cifar10" or "lsun/church"'),
    "split": Key("train", 'digits: train, test or all; tfds: any split, such as "train" or "train[:90%]"'),
    "held_out": Key(
        0.0, "share of the images that training leaves out, by a hash of their names, to measure with", FRACTION
    ),
    "label": Key("label", 'tfds: feature that contains the class, such as "attributes/Smiling" of celeb_a'),
    "image_size": Key(32, "side of the square input images of the network, in pixels", COUNT),
    "channels": Key(3, "3 for colour, 1 for grey", COUNT),
    "crop": Key((), "(left, top, right, bottom) cut out before resizing; () for the largest centred square", BOX),
    "random_flip": Key(True, "mirror training images left to right at random"),
    "skip_unreadable": Key(
        False, "skip files that cannot be read and print their names, instead of stopping", fixed=False
    ),
    "cache_gib": Key(
        20.0, "GiB that copies of the images of a gs:// folder may take on the local disk", NOT_NEGATIVE, fixed=False
    ),
    "on_device": Key(
        False, "read the whole data set at the start and keep it on every device; for small data sets", fixed=False
    ),
    "num_workers": Key(
        0, "processes that decode images; 0 decodes in a thread of the training process", NOT_NEGATIVE, fixed=False
    ),
}
LABELS = {
    "num_classes": Key(
        0, "number of classes of a conditional model or a classifier; 0 for an unconditional model", NOT_NEGATIVE
    ),
    "names": Key(
        (), "names of the classes, in the order of their numbers; () takes those of the data and keeps them", NAMES
    ),
    "dropout": Key(0.0, "share of training images that get the null label; 0.1 for classifier-free guidance", FRACTION),
}
DIFFUSION = {
    "schedule": Key(
        "linear",
        "the noise schedule; log_snr: linear in log-SNR (VDM); straight: that of flow matching",
        choices=("linear", "quadratic", "sigmoid", "cosine", "log_snr", "straight"),
    ),
    "num_timesteps": Key(1000, "T, the number of noise levels", COUNT),
    "beta_start": Key(1e-4, "beta_1"),
    "beta_end": Key(0.02, "beta_T"),
    "log_snr_first": Key(13.3, "the log-SNR at t = 1 of the schedule log_snr"),
    "log_snr_last": Key(-5.0, "its log-SNR at t = T"),
    "shift": Key(1.0, "factor of the noise over the signal at every time, above 1 for larger images", POSITIVE),
    "zero_terminal_snr": Key(False, "scale the signal so that nothing of it is left at t = T; not for the target eps"),
    "target": Key(
        "eps",
        "what the network predicts; flow: eps - x_0, on the straight path; edm: EDM's preconditioning",
        choices=("eps", "x_0", "v", "flow", "edm"),
    ),
    "sigma_data": Key(0.5, "the standard deviation of the data, for EDM's target and weight", POSITIVE),
    "learned_variance": Key(False, "the network also predicts the variance, between beta_tilde and beta"),
}
MODEL = {
    "channels": Key(128, "base width, in channels", COUNT),
    "channel_mult": Key(
        (1, 2, 2, 2), "width of each level over the base; each level but the last halves the image", COUNTS
    ),
    "num_res_blocks": Key(2, "residual blocks per level", COUNT),
    "attention_resolutions": Key((16,), "image heights, in pixels, at which there is self-attention", INTEGERS),
    "num_heads": Key(1, "attention heads, if head_channels is 0", COUNT),
    "head_channels": Key(0, "channels per attention head; 0 uses num_heads", NOT_NEGATIVE),
    "dropout": Key(0.1, "dropout rate in the residual blocks", FRACTION, fixed=False),
    "scale_shift_norm": Key(False, "ADM: the time embedding scales and shifts the norm"),
    "resample_in_block": Key(False, "ADM: residual blocks resample the image"),
    "padding": Key(
        "same", "padding of stride-2 convolutions: same (Ho), symmetric (ADM)", choices=("same", "symmetric")
    ),
    "time_embedding": Key(
        "sin_cos", "order of its two halves: sin_cos (Ho), cos_sin (ADM)", choices=("sin_cos", "cos_sin")
    ),
    "time_scale": Key(1.0, "factor of the time index; 1000/T for the weights of improved diffusion", POSITIVE),
    "time_offset": Key(0.0, "added to the time index before that, for converted networks of other times"),
    "norm_groups": Key(32, "groups of each GroupNorm", COUNT),
    "norm_epsilon": Key(1e-6, "epsilon of each GroupNorm: 1e-6 (Ho), 1e-5 (ADM)", NOT_NEGATIVE),
    "dtype": Key(
        "float32", "type of the computation; parameters, norms, softmax stay float32", choices=("float32", "bfloat16")
    ),
    "remat": Key(False, "recompute activations in the backward pass: less memory, about a third more time"),
}
LOSS = {
    "kind": Key(
        "simple",
        "hybrid: with the bound, for a learned variance; vlb: the bound; custom: given to train() by a program",
        choices=("simple", "hybrid", "vlb", CUSTOM),
    ),
    "weight": Key(
        "eps",
        "weight of the squared error; eps: L_simple; flow, edm: of these targets; min_snr: with gamma 5; p2: with "
        "gamma 1; sigmoid: SiD2, with times=log_snr",
        choices=("eps", "x_0", "v", "flow", "edm", "min_snr", "p2", "sigmoid"),
    ),
    "vlb_weight": Key(0.001, "weight of the bound in the hybrid loss", NOT_NEGATIVE),
    "times": Key(
        "uniform",
        "how training times are drawn; importance: by the loss, for vlb; floats: log_snr, uniform in it; log_normal, "
        "EDM's; logit_normal, of the straight path; learned, by a density that lowers the variance of the loss",
        choices=("uniform", "antithetic", "importance", "log_snr", "log_normal", "logit_normal", "learned"),
        fixed=True,
    ),
}
POSTERIOR = {
    "weights": Key(
        "none",
        "weights of a classifier that are random; last: its output layer",
        choices=("none", "last", "all"),
        fixed=True,
    ),
    "prior_std": Key(1.0, "standard deviation of their Gaussian prior", POSITIVE),
    "init_std": Key(0.05, "standard deviation of the posterior at the start", POSITIVE),
    "num_samples": Key(8, "samples of the weights over which a prediction is averaged", COUNT),
    "samples_per_step": Key(
        1, "samples per train step, one per part of the batch; more: less noise, more memory", COUNT
    ),
}
SAMPLE = {
    "sampler": Key(
        "ancestral",
        "the step of the reverse process",
        choices=(
            "ancestral",
            "ddim",
            "heun",
            "dpm_solver_pp_2m",
            "dpm_solver_pp_3m",
            "unipc",
            "deis",
            "adams_bashforth",
            "euler_maruyama",
            "langevin",
            "consistency",
            "mean_flow",
        ),
    ),
    "variance": Key(
        "large",
        "variance of the ancestral step and of the bound: large (beta), small (beta_tilde), learned; analytic: the "
        "best one that is equal for all pixels, by the measurements of evaluate.py --fit_chain",
        choices=("large", "small", "learned", "analytic"),
    ),
    "eta": Key(0.0, "share of noise in DDIM and DPM-Solver++: 0 (deterministic) to 1", SHARE),
    "corrector_steps": Key(0, "Langevin steps after each step of any sampler", NOT_NEGATIVE),
    "corrector_snr": Key(0.16, "signal-to-noise ratio of these Langevin steps", NOT_NEGATIVE),
    "churn": Key(0.0, "share by which noise grows before each step, S_churn / N of EDM; 0 for none", NOT_NEGATIVE),
    "churn_noise": Key(1.0, "factor of this noise, S_noise of EDM", POSITIVE),
    "churn_low": Key(0.0, "the least sigma / signal at which it is added, S_tmin of EDM", NOT_NEGATIVE),
    "churn_high": Key(1e6, "the largest, S_tmax of EDM", POSITIVE),
    "restarts": Key(0, "restart sampling: how often noise is added again near the end; 0 for never", NOT_NEGATIVE),
    "restart_low": Key(0.06, "the sigma / signal below which a restart begins", POSITIVE),
    "restart_high": Key(0.3, "the sigma / signal up to which a restart adds noise", POSITIVE),
    "restart_steps": Key(5, "number of steps that remove this noise again, after each restart", COUNT),
    "num_steps": Key(0, "steps of the reverse process; 0 for all T", NOT_NEGATIVE),
    "grid": Key(
        "trailing",
        "spacing of the timesteps; bound, fitted: the lowest bound and the least error of deterministic steps by the "
        "measurements of evaluate.py --fit_chain",
        choices=("trailing", "uniform", "leading", "linspace", "quadratic", "log_snr", "karras", "bound", "fitted"),
    ),
    "labels": Key("", 'classes in turn, by name or number: "cat,dog", "7", "all", "none" (null label); "" for all'),
    "guidance_scale": Key(
        1.0, "classifier-free, 1 + w of the notes: 0 unconditional, 1 conditional, above 1 guided", NOT_NEGATIVE
    ),
    "classifier_scale": Key(1.0, "factor of the gradient of the classifier, if one guides the sampling", NOT_NEGATIVE),
    "classifier_on": Key(
        "score",
        "what this gradient shifts; score: the estimate, for any sampler; mean: that of the ancestral step",
        choices=("score", "mean"),
    ),
    "clip_x_0": Key(True, "clip each estimate of the clean image to [-1, 1]"),
    "clip_order": Key("after", "whether it is clipped after guidance or before", choices=("after", "before")),
    "decoder": Key(
        "exact", "normal CDF in L_0 of the bound; tanh: the approximation of published code", choices=("exact", "tanh")
    ),
}
GIVEN = {
    "source": Key("", "the images of a run with data.source=custom"),
    "network": Key("", "the network of a run with network=custom"),
    "loss": Key("", "the loss of a run with loss.kind=custom"),
}

GROUPS: dict[str, Group] = {
    "": Group("The run", GENERAL, fixed=True),
    "data": Group("The images and how they are read", DATA, fixed=True),
    "labels": Group("The classes of the images", LABELS, fixed=True),
    "diffusion": Group("The forward process and the target of the network", DIFFUSION, fixed=True),
    "model": Group("The network: the fields of `ddpm_jax.models.Architecture`", MODEL, fixed=True),
    "loss": Group("The training loss", LOSS),
    "teacher": Group("The teacher of a student", TEACHER, fixed=True),
    "distil": Group("How a student is taught", DISTIL, fixed=True),
    "posterior": Group("The posterior over the weights of a classifier", POSTERIOR),
    "optim": Group("Adam, its learning rate, and the average of the parameters", OPTIM),
    "train": Group("The length of the training and its batches", TRAIN),
    "mesh": Group("How the state is sharded over the devices", MESH),
    "sample": Group("The reverse process", SAMPLE),
    "checkpoint": Group("When the run is saved, and which checkpoints are kept", CHECKPOINT),
    "given": Group("What a program gave to train(), as text; train() writes it", GIVEN),
    "log": Group("When the run is logged, and which previews are drawn", LOG),
}


def _by_path() -> dict[str, Key]:
    """Every key by its path, with what its group and the table of needs say."""
    found, needs = {}, needs_of(GROUPS)
    for name, group in GROUPS.items():
        for last, key in group.keys.items():
            path = f"{name}.{last}" if name else last
            fixed = group.fixed if key.fixed is None else key.fixed
            found[path] = dataclasses.replace(key, fixed=fixed, needs=needs.get(path, ()))
    return found


KEYS: dict[str, Key] = _by_path()
"""Every key by its path, such as "optim.learning_rate"."""
