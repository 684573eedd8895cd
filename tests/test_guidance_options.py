"""Clipping before guidance, guidance on the mean and the decoder by tanh, as settings of a run and as flags."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.analytic import keys, normal, pick
from support.tiny import run, save, tiny_config

from ddpm_jax import factory
from ddpm_jax.diffusion.guidance import classifier_free, clip_x_0, in_one_batch, mean_guided
from ddpm_jax.diffusion.prediction import as_denoiser
from ddpm_jax.diffusion.samplers import Variance
from ddpm_jax.diffusion.samplers.ancestral import p_sample
from ddpm_jax.errors import UserError
from ddpm_jax.runs.run import Run

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONDITIONAL = {"labels__num_classes": 10, "labels__dropout": 0.1}


class Formula:
    """A network that predicts a fifth of the label, times x_t, as the noise."""

    @staticmethod
    def apply(variables, x_t, index, label):
        factor = 1.0 if label is None else jnp.reshape(label, (-1, 1, 1, 1))
        return 0.2 * factor * x_t


def test_clipping_before_guidance_is_a_composition():
    """`classifier_free` of clipped denoisers, whose estimate leaves [-1, 1] where that of clipping after does not."""
    config = tiny_config(**CONDITIONAL, sample__guidance_scale=3.0, sample__clip_order="before")
    label, x_t = jnp.array([1, 7]), jnp.asarray(2 * normal(2, 8, 8, 1), jnp.float32)
    level = jax.tree.map(jnp.float32, factory.noise_schedule(config).level(12))
    ours = factory.denoiser(config, Formula)({}, label)(x_t, level)
    network = as_denoiser(Formula.apply, {}, "eps", label=jnp.array([1, 10, 7, 10]))
    expected = classifier_free(in_one_batch(clip_x_0(network)), 3.0)(x_t, level)
    np.testing.assert_allclose(ours.x_0, expected.x_0, rtol=1e-5, atol=1e-5)
    assert np.abs(ours.x_0).max() > 1.1
    config = tiny_config(**CONDITIONAL, sample__guidance_scale=3.0)
    after = factory.denoiser(config, Formula)({}, label)(x_t, level)
    assert np.abs(after.x_0).max() <= 1


def test_guidance_on_the_mean_reaches_the_ancestral_step():
    config = tiny_config(sample__classifier_on="mean", sample__classifier_scale=2.0)
    classifier = lambda params: lambda x_t, level: jnp.stack([-jnp.sum(x_t**2, (1, 2, 3)), 0 * x_t[:, 0, 0, 0]], 1)
    params = {"denoiser": {}, "classifier": {}}
    denoise = factory.denoiser(config, Formula, classifier=classifier)(params, jnp.array([0, 0]))
    plain = factory.denoiser(config, Formula)({}, jnp.array([0, 0]))
    expected = mean_guided(plain, lambda x_t, level: -jnp.sum(x_t**2, (1, 2, 3)), 2.0)
    x_t, transition = np.float32(normal(2, 8, 8, 1)), pick(factory.sampling_transitions(config, 0), 3)
    ours, theirs, unguided = (
        p_sample(d, keys(2), x_t=x_t, transition=transition, variance=Variance.LARGE)
        for d in (denoise, expected, plain)
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    assert np.abs(ours - unguided).max() > 0.01


@pytest.mark.parametrize("other", [{"sample__sampler": "ddim"}, {"sample__corrector_steps": 1}])
def test_the_mean_is_that_of_the_ancestral_step_alone(other):
    with pytest.raises(UserError, match="classifier_on=mean shifts the mean of the ancestral step alone: choose"):
        factory.check_sampling(tiny_config(sample__classifier_on="mean", **other))
    factory.check_sampling(tiny_config(sample__classifier_on="mean"))


def test_a_setting_of_the_classifier_needs_one(tmp_path):
    save(tmp_path / "run", tiny_config())
    with pytest.raises(UserError, match=r"^classifier_on='mean' has no effect without a classifier: call run\.guide"):
        Run(tmp_path / "run").configure(classifier_on="mean")
    shown = run("sample.py", f"--workdir={tmp_path}/run", "--classifier_on=mean")
    assert shown.status == 1
    assert "--classifier_on needs --classifier_workdir=DIR, the directory of the classifier's run" in shown.err


def test_the_decoder_changes_the_last_term_of_the_bound_alone(tmp_path):
    save(tmp_path / "run", tiny_config())
    results = {}
    for decoder in ("exact", "tanh"):
        shown = run("evaluate.py", f"--workdir={tmp_path}/run", "--num_images=8", f"--decoder={decoder}")
        assert shown.status == 0, shown.err
        assert ("(tanh approximation)" in shown.out) == (decoder == "tanh")
        lines = [line.split() for line in shown.out.splitlines()]
        results[decoder] = {line[0]: line[1:] for line in lines if line and line[0].startswith("L_")}
    exact, tanh = results.values()
    assert exact["L_(t-1)"] == tanh["L_(t-1)"]
    assert exact["L_0"][0] != tanh["L_0"][0]
    refused = run("evaluate.py", f"--workdir={tmp_path}/run", "--metrics=spectrum", "--decoder=tanh")
    assert refused.err.strip().endswith("--decoder belongs to the metric bpd: leave it out")
