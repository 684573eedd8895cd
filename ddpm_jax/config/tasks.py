"""What a run is once it is trained, by its task: asked here alone."""

from ml_collections import ConfigDict

DENOISERS = ("denoise", "distil")
"""The tasks whose runs are denoisers."""

KINDS = ("denoise", "classify")
"""What a run may be: `kind` returns one of them."""


def denoises(config: ConfigDict) -> bool:
    """Whether the run of a configuration is a denoiser, which draws images, and no classifier."""
    return config.task in DENOISERS


def kind(config: ConfigDict) -> str:
    """What the run of a configuration is, one of `KINDS`: a student is a denoiser like its teacher."""
    return "denoise" if denoises(config) else "classify"


def distils(config: ConfigDict) -> bool:
    """Whether the run of a configuration is a student, which a teacher gives its start and its targets."""
    return config.task == "distil"


def learned_guidance(config: ConfigDict) -> float:
    """The scale of the classifier-free guidance that the weights of a run have learned; 1 for none."""
    if not distils(config):
        return 1.0
    return config.distil.guidance_scale if config.distil.guidance_scale != 1 else config.teacher.guidance_scale


def takes_steps(config: ConfigDict) -> bool:
    """Whether the network of a configuration is a student that is told where a step ends."""
    return distils(config) and config.distil.method == "mean_flow"
