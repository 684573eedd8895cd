"""Classifiers of noisy images, trained by the same program: resumed bit for bit, with and without a posterior."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tiny import arguments, same, save, tiny_config
from support.tiny import run as run_program

from ddpm_jax import factory
from ddpm_jax.diffusion import bayes
from ddpm_jax.diffusion.losses import cross_entropy
from ddpm_jax.diffusion.schedules import linear
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.evaluate import evaluate
from ddpm_jax.jobs import train
from ddpm_jax.metrics.calibration import expected_calibration_error
from ddpm_jax.runs.run import Run
from ddpm_jax.training import log
from ddpm_jax.training.step import draw_examples

pytestmark = pytest.mark.usefixtures("quick_compilation")

CLASSIFIER = {"task": "classify", "labels__num_classes": 10, "train__num_steps": 4}
POSTERIORS = ["none", "last", "all"]


def test_cross_entropy_is_minus_the_log_probability_of_the_true_class():
    log_probs = jax.nn.log_softmax(jnp.asarray([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]]))
    transition = jax.tree.map(lambda leaf: leaf[np.array([3, 7])], linear(10).transitions())
    keys = jax.random.split(jax.random.key(0), 2)
    seen = []

    def classify(x_t, level):
        seen.append((np.asarray(x_t), level))
        return log_probs

    x_0 = jnp.ones((2, 4, 4, 1))
    terms = cross_entropy(classify, x_0, keys, transition, label=jnp.array([0, 1]))
    np.testing.assert_allclose(terms["loss"], [-log_probs[0, 0], -log_probs[1, 1]], rtol=1e-6)
    np.testing.assert_array_equal(terms["accuracy"], [1, 0])
    (x_t, level), = seen  # fmt: skip
    np.testing.assert_array_equal(level.t, [7, 3])
    noise = (x_t - np.asarray(level.signal)[:, None, None, None]) / np.asarray(level.sigma)[:, None, None, None]
    assert 0.6 < np.std(noise) < 1.4


@pytest.mark.parametrize("weights", ["none", "all"])
@pytest.mark.slow
def test_a_resumed_classifier_is_the_uninterrupted_one_bit_for_bit(tmp_path, weights):
    samples = {} if weights == "none" else {"posterior__num_samples": 2}
    config = {**CLASSIFIER, "posterior__weights": weights, "model__dropout": 0.1, **samples}
    whole = train.train(tiny_config(**config), tmp_path / "whole")
    train.train(tiny_config(**{**config, "train__num_steps": 3}), tmp_path / "cut")
    assert same(train.train(tiny_config(**config), tmp_path / "cut"), whole)
    for line in log.read_log(tmp_path / "whole"):
        assert 0 <= line["accuracy"] <= 1
        quarters = [line[f"accuracy_t{i}"] for i in range(1, 5) if f"accuracy_t{i}" in line]
        assert quarters
        if weights == "none":
            assert "kl" not in line
        else:
            np.testing.assert_allclose(line["loss"], line["data_fit"] + line["kl"], rtol=1e-5)
    shown = run_program("evaluate.py", f"--workdir={tmp_path / 'whole'}", "--metrics=accuracy", "--num_images=16")
    assert shown.status == 0, shown.err
    assert "on clean images" in shown.out
    assert (tmp_path / "whole" / "evaluation" / "accuracy.png").exists()


@pytest.mark.slow
def test_the_training_program_ends_with_the_command_that_measures(tmp_path):
    config = tiny_config(**{**CLASSIFIER, "train__num_steps": 1})
    outcome = run_program("train.py", f"--workdir={tmp_path / 'run'}", *arguments(config))
    assert outcome.status == 0, outcome.err
    assert outcome.out.endswith(f"  python evaluate.py --workdir={tmp_path / 'run'} --metrics=accuracy\n")


def test_the_loss_is_the_negative_elbo_over_the_number_of_images():
    """The KL is divided by N and the data fit is the cross-entropy at one sample of the weights."""
    config = tiny_config(**CLASSIFIER, posterior__weights="last", posterior__prior_std=0.5)
    model = factory.network(config)
    params = factory.initial_params(config, model)(jax.random.key(0))
    spec = factory.train_spec(config, model, num_images=50)
    batch = {"image": np.zeros((8, 8, 8, 1), np.uint8), "label": np.arange(8, dtype=np.int32)}
    examples = draw_examples(spec, batch, jax.random.key(1), times_state=spec.times.init())
    terms, other = (spec.objective(params, examples, jax.random.key(seed)) for seed in (2, 3))
    kl = bayes.kl_nats(params, prior_std=0.5).total / 50
    np.testing.assert_allclose(terms["kl"], np.full(8, kl), rtol=1e-6)
    np.testing.assert_allclose(terms["loss"], terms["data_fit"] + terms["kl"], rtol=1e-6)
    assert np.all(terms["data_fit"] != other["data_fit"])


@pytest.mark.parametrize("num_samples", [2, *(pytest.param(number, marks=pytest.mark.slow) for number in (1, 4))])
def test_each_part_of_a_batch_has_a_sample_of_the_weights_of_its_own(num_samples):
    """Of one noisy image four times, one sample says one thing, two say two, half and half."""
    changes = {"posterior__weights": "last", "posterior__samples_per_step": num_samples, "train__batch_size": 4}
    config = tiny_config(**CLASSIFIER, **changes)
    model = factory.network(config)
    params = factory.initial_params(config, model)(jax.random.key(0))
    spec = factory.train_spec(config, model, num_images=50)
    batch = {"image": np.zeros((4, 8, 8, 1), np.uint8), "label": np.full(4, 3, np.int32)}
    examples = draw_examples(spec, batch, jax.random.key(1), times_state=spec.times.init())
    examples = jax.tree.map(lambda leaf: leaf[np.zeros(4, int)], examples)
    fit = np.asarray(spec.objective(params, examples, jax.random.key(2))["data_fit"])
    assert len(np.unique(fit.round(5))) == num_samples
    np.testing.assert_allclose(fit.reshape(num_samples, -1).std(axis=1), 0, atol=1e-5)


def test_samples_of_the_weights_that_do_not_divide_the_batch_are_refused():
    config = tiny_config(**CLASSIFIER, posterior__weights="last", posterior__samples_per_step=3, train__batch_size=8)
    with pytest.raises(UserError, match=r"^config.posterior.samples_per_step=3 must divide the 8 images of one part "):
        factory.train_spec(config, factory.network(config), num_images=50)


@pytest.mark.parametrize(
    "weights", [name if name == "last" else pytest.param(name, marks=pytest.mark.slow) for name in POSTERIORS]
)
def test_a_prediction_averages_over_samples_of_the_random_weights(tmp_path, weights):
    config = tiny_config(**CLASSIFIER, posterior__weights=weights, posterior__num_samples=3)
    run = Run(save(tmp_path / "run", config))
    x, level = np.random.default_rng(0).normal(size=(4, 8, 8, 1)), factory.noise_schedule(config).level(3)
    samples = factory.classifier_samples(config, run.model)(run.params)(x, level)
    average = factory.classifier(config, run.model)(run.params)(x, level)
    assert samples.shape == (1 if weights == "none" else 3, 4, 10)
    np.testing.assert_allclose(np.exp(average), np.exp(samples).mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(np.exp(average).sum(axis=-1), 1, rtol=1e-5)
    assert weights == "none" or np.std(samples, axis=0).max() > 1e-3


def test_random_weights_are_those_named(tmp_path):
    for weights, named in (("last", {"pool/out/bias", "pool/out/kernel"}), ("all", None)):
        config = tiny_config(**CLASSIFIER, posterior__weights=weights)
        params = jax.eval_shape(factory.initial_params(config, factory.network(config)), jax.random.key(0))
        paths = jax.tree_util.tree_flatten_with_path(params.log_std)[0]
        names = {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths}
        assert names == named or (named is None and len(names) == len(jax.tree.leaves(params.mean)))


def test_calibration_by_hand():
    """Two bins: three predictions at 0.9 of which two are right, one at 0.6 that is."""
    prob = np.array([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.4, 0.6]])
    label = np.array([0, 1, 1, 1])
    expected = (3 * abs(2 / 3 - 0.9) + 1 * abs(1 - 0.6)) / 4
    assert expected_calibration_error(prob, label) == pytest.approx(expected)


def test_certain_and_right_is_calibrated_and_certain_and_wrong_is_not():
    certain = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert expected_calibration_error(certain, [0, 1]) == 0
    assert expected_calibration_error(certain, [1, 0]) == 1


def test_each_task_has_its_metrics(tmp_path):
    for overrides, metric, suited in ((CLASSIFIER, "bpd", "accuracy"), ({}, "accuracy", "bpd, nll, spectrum, .*fid.*")):
        run = Run(save(tmp_path / metric, tiny_config(**overrides)))
        with pytest.raises(UserError, match=rf"has config.task=\w+: choose the metrics from {suited}$"):
            evaluate(run, [metric], source=None, num_images=1)
