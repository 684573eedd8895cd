"""The measurements of a run: each is a function from an opened run and images to the content of a JSON file.

Read next: `likelihoods.py`, which has those in bits per dimension, and `diffusion/spectrum.py`.
"""

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from ddpm_jax import factory
from ddpm_jax.diffusion import spectrum
from ddpm_jax.diffusion.arrays import noise_like
from ddpm_jax.diffusion.bayes import predictive_log_prob, uncertainty
from ddpm_jax.diffusion.gaussian import q_sample
from ddpm_jax.evaluation.images import Images
from ddpm_jax.metrics.calibration import expected_calibration_error, reliability
from ddpm_jax.runtime.devices import to_host
from ddpm_jax.runtime.progress import progress_bar

if TYPE_CHECKING:
    from ddpm_jax.runs.run import Run

_NUM_FRAMES = 50  # frames of the chain, for spectra
_NUM_CHAINS = 64  # of which they are the mean, at most


def power_spectra(run: "Run", images: Images, *, num_steps: int) -> dict[str, Any]:
    """Band power of x_t along the forward and the reverse chain, and when each band of the estimate of x_0 settles."""
    chain, schedule = run.chain(num_steps), factory.noise_schedule(run.config)
    clean = np.concatenate([to_host(spectrum.band_power(x_0))[:count] for x_0, _, _, count in images]).mean(0)
    with progress_bar(chain.num_steps, "spectrum", unit="step") as bar:
        indices = np.arange(min(images.num_images, _NUM_CHAINS))
        frames = chain.frames(
            run.params, jax.random.key(0), indices=indices, num_frames=_NUM_FRAMES, progress=bar.update
        )
    times = frames.times
    reverse, estimates = (np.stack([np.asarray(spectrum.band_power(x)).mean(0) for x in xs]) for xs in frames[1:3])
    forward = spectrum.forward_power(clean[None], jax.tree.map(lambda a: a[:, None], schedule.level(times)))
    return {
        "times": times.tolist(),
        "data": clean.tolist(),
        "forward": np.asarray(forward).tolist(),
        "reverse": reverse.tolist(),
        "estimate_of_x_0": estimates.tolist(),
        "settling_time": spectrum.settling_time(times, estimates).tolist(),
    }


def accuracy(run: "Run", images: Images, *, num_steps: int) -> dict[str, Any]:
    """The accuracy of a classifier on clean images and at `num_steps` noise levels from 1 to T (0 for 21 of them)."""
    schedule = factory.noise_schedule(run.config)
    times = np.linspace(1, schedule.num_timesteps, num_steps or 21)
    samples = factory.classifier_samples(run.config, run.model)
    at_level = jax.jit(lambda params, x_t, level: samples(params)(x_t, level))
    log_probs, label = [], []
    with progress_bar(len(images) * (len(times) + 1), "accuracy", unit="noise level") as bar:
        for x_0, y, keys, count in images:
            eps = noise_like(keys, x_0)
            noisy = [
                (x_0, schedule.level(1)),
                *((q_sample(x_0, eps, level), level) for level in map(schedule.level, times)),
            ]
            rows = []
            for x_t, level in noisy:
                rows.append(
                    to_host(at_level(run.params, x_t, jax.tree.map(np.float32, level))).astype(np.float64)[:, :count]
                )
                bar.update(1)
            log_probs.append(np.stack(rows))
            label.append(to_host(y)[:count])
    log_probs, label = np.concatenate(log_probs, axis=2), np.concatenate(label)  # [levels, S, N, K], [N]
    mean = np.asarray(jax.vmap(predictive_log_prob)(log_probs))
    right = mean.argmax(-1) == label
    of_class = [right[0][label == k] for k in range(mean.shape[-1])]
    return {
        "accuracy": float(right[0].mean()),
        "accuracy_by_class": [float(of.mean()) if of.size else None for of in of_class],
        "class_names": list(images.class_names or run.class_names),
        "nll_nats": float(-mean[0, np.arange(len(label)), label].mean()),
        "calibration_error": expected_calibration_error(np.exp(mean[0]), label),
        "calibration": {key: bins.tolist() for key, bins in reliability(np.exp(mean[0]), label)._asdict().items()},
        "mutual_information_nats": float(uncertainty(log_probs[0]).mutual_information.mean()),
        "times": times.tolist(),
        "accuracy_by_t": right[1:].mean(1).tolist(),
        "nll_nats_by_t": (-mean[1:, np.arange(len(label)), label]).mean(1).tolist(),
    }
