"""Which configuration keys have an effect only if another key has certain values.

Training refuses to start a new run if its configuration sets such a key and the condition is not met.
"""

from collections.abc import Mapping

from ddpm_jax.config.keys import Group, Needs, needs, needs_some
from ddpm_jax.config.tasks import DENOISERS

_DENOISES, _OURS = needs("task", *DENOISERS), needs("network", "configured")
_BY_LOSS, _DISTILS = needs("task", "denoise"), needs("task", "distil")
_FILES, _TFDS = needs("data.source", "folder", "tfds"), needs("data.source", "tfds")
_BETAS, _RANDOM = (
    needs("diffusion.schedule", "linear", "quadratic", "sigmoid"),
    needs("posterior.weights", "last", "all"),
)
_CHURNS = Needs("sample.churn", " above 0", lambda share: share > 0)


def needs_of(groups: Mapping[str, Group]) -> dict[str, tuple[Needs, ...]]:
    """The conditions of every key that has any, by its path, from the groups of all keys.

    `sample.variance` also chooses the variance of the bound, so it does not need the ancestral sampler.
    """
    return {
        "data.path": (_FILES,),
        "data.name": (_TFDS,),
        "data.split": (needs("data.source", "digits", "tfds"),),
        "data.label": (_TFDS,),
        "data.crop": (_FILES,),
        "data.skip_unreadable": (_FILES,),
        "data.cache_gib": (needs("data.source", "folder"),),
        "data.num_workers": (needs("data.on_device", False),),
        "labels.dropout": (_DENOISES, needs_some("labels.num_classes")),
        "diffusion.beta_start": (_BETAS,),
        "diffusion.beta_end": (_BETAS,),
        "diffusion.log_snr_first": (needs("diffusion.schedule", "log_snr"),),
        "diffusion.log_snr_last": (needs("diffusion.schedule", "log_snr"),),
        "diffusion.sigma_data": (_DENOISES,),
        "diffusion.target": (_DENOISES,),
        "diffusion.learned_variance": (_DENOISES,),
        **{f"model.{key}": (_OURS,) for key in groups["model"].keys},
        "model.num_heads": (_OURS, needs("model.head_channels", 0)),
        "loss.kind": (_BY_LOSS,),
        "loss.weight": (_BY_LOSS, needs("loss.kind", "simple", "hybrid")),
        "loss.vlb_weight": (_BY_LOSS, needs("loss.kind", "hybrid")),
        **{f"teacher.{key}": (_DISTILS,) for key in groups["teacher"].keys},
        **{f"distil.{key}": (_DISTILS,) for key in groups["distil"].keys},
        "distil.guidance_scale": (_DISTILS, needs("distil.method", "progressive", "mean_flow")),
        "distil.first_steps": (_DISTILS, needs("distil.method", "progressive")),
        "distil.distance": (_DISTILS, needs("distil.method", "progressive")),
        "distil.teacher_steps": (_DISTILS, needs("distil.method", "progressive")),
        "distil.stage_steps": (_DISTILS, needs("distil.method", "progressive", "consistency")),
        **{f"posterior.{key}": (_RANDOM,) for key in groups["posterior"].keys if key != "weights"},
        **{f"sample.{key}": (_DENOISES,) for key in groups["sample"].keys},
        "log.held_out_every": (Needs("data.held_out", " above 0", lambda share: share > 0),),
        "log.quality_every": (_DENOISES,),
        **{
            f"log.quality_{key}": (_DENOISES, needs_some("log.quality_every"))
            for key in ("images", "steps", "features")
        },
        "train.rollback_batches": (needs("train.on_divergence", "rollback"),),
        "train.max_passed_over": (needs("train.on_divergence", "skip", "rollback"),),
        "sample.eta": (_DENOISES, needs("sample.sampler", "ddim", "dpm_solver_pp_2m", "dpm_solver_pp_3m")),
        "sample.corrector_snr": (_DENOISES, needs_some("sample.corrector_steps")),
        **{f"sample.churn_{key}": (_DENOISES, _CHURNS) for key in ("noise", "low", "high")},
        **{f"sample.restart_{key}": (_DENOISES, needs_some("sample.restarts")) for key in ("low", "high", "steps")},
        "sample.clip_order": (_DENOISES, needs("sample.clip_x_0", True)),
    }
