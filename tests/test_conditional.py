"""Models that know classes: what `sample.py` draws when asked for one, and what it refuses."""

import jax
import numpy as np
import pytest
from support.tiny import run as run_program
from support.tiny import save, tiny_config

from ddpm_jax import factory
from ddpm_jax.data.digits import Digits
from ddpm_jax.diffusion.guidance import clip_x_0
from ddpm_jax.diffusion.prediction import Target, as_denoiser
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.evaluate import evaluate
from ddpm_jax.jobs import train
from ddpm_jax.runs.chain import Chain, CompiledChain, draw
from ddpm_jax.runs.run import Run
from ddpm_jax.runs.sampling import sample_run
from ddpm_jax.training.step import draw_examples

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONDITIONAL = {"labels__num_classes": 10, "labels__dropout": 0.25, "diffusion__num_timesteps": 8}
CLASSIFIER = {"task": "classify", "labels__num_classes": 10, "diffusion__num_timesteps": 8}


def made(folder, **overrides):
    return save(folder, tiny_config(**overrides), steps=(3,))


@pytest.fixture(scope="module")
def places(tmp_path_factory, quick_compilation):
    """Runs of random parameters: a conditional model, one that is always told the class, a plain one, classifiers."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        "conditional": made(folder / "conditional", **CONDITIONAL),
        "told": made(folder / "told", **{**CONDITIONAL, "labels__dropout": 0.0}),
        "plain": made(folder / "plain", diffusion__num_timesteps=8),
        "classifier": made(folder / "classifier", **CLASSIFIER),
        "bayes": made(folder / "bayes", **CLASSIFIER, posterior__weights="last", posterior__num_samples=2),
        "longer": made(folder / "longer", **{**CLASSIFIER, "diffusion__num_timesteps": 9}),
    }


def images(run, indices=range(20), **settings):
    return draw(run.configure(**settings).chain(), run.params, seed=0, indices=np.array(indices), batch_size=8)


def test_an_image_has_the_class_that_its_turn_gives_it(places):
    run = Run(places["conditional"])
    every = images(run)
    assert run.chain().columns == 10
    for index in (7, 17):
        np.testing.assert_array_equal(images(run, [index], labels="7")[0], every[index])
        assert np.any(images(run, [index], labels="6")[0] != every[index])
    np.testing.assert_array_equal(images(run, [0, 1, 2, 3], labels="0,1,2,3"), every[:4])


def by_hand(run, label):
    """Twenty images of the network that is told these classes, without any of `factory`'s guidance."""
    apply, target = run.model.apply, Target.EPS
    denoiser = lambda params, _, settings: clip_x_0(as_denoiser(apply, {"params": params}, target, label=label))
    options = {"transitions": factory.sampling_transitions(run.config, 0), "shape": run.shape, "mesh": run.mesh}
    chain = Chain(CompiledChain(factory.sampler(run.config), denoiser, **options), {})
    return draw(chain, run.params, seed=0, indices=np.arange(8), batch_size=8)


def test_scale_one_is_the_conditional_network_and_zero_the_unconditional_bit_for_bit(places):
    run, first = Run(places["conditional"]), range(8)
    one, zero = images(run, first, guidance_scale=1.0), images(run, first, guidance_scale=0.0)
    np.testing.assert_array_equal(one, by_hand(run, np.arange(8)))
    np.testing.assert_array_equal(zero, by_hand(run, np.full(8, 10)))
    np.testing.assert_array_equal(zero, images(run, first, guidance_scale=1.0, labels="none"))
    assert np.any(one != zero)


def test_the_scale_is_an_input_of_the_compiled_chain(places, monkeypatch):
    run, made, traces = Run(places["conditional"]), factory.denoiser, []

    def counted(*args, **options):
        with_params = made(*args, **options)
        return lambda *args: traces.append(args) or with_params(*args)

    monkeypatch.setattr(factory, "denoiser", counted)
    chain, options = run.configure(guidance_scale=9.0).chain(), {"seed": 0, "indices": np.arange(8), "batch_size": 8}
    strong, traced = draw(chain, run.params, **options), len(traces)
    chain.settings["guidance_scale"] = 1.0
    plain = draw(chain, run.params, **options)
    assert len(traces) == traced
    assert np.any(strong != plain)
    assert np.max(np.abs(plain.astype(int) - images(run, range(8), guidance_scale=1.0))) <= 1


def test_a_classifier_of_scale_zero_is_no_classifier_bit_for_bit(places):
    plain, guided = Run(places["plain"]), Run(places["plain"]).guide(Run(places["classifier"]))
    unguided = images(plain)
    np.testing.assert_array_equal(images(guided, classifier_scale=0.0), unguided)
    pushed = images(guided, classifier_scale=20.0)
    assert np.any(pushed != unguided)
    np.testing.assert_array_equal(images(guided, [4], labels="4", classifier_scale=20.0)[0], pushed[4])


@pytest.mark.parametrize("sampler", [pytest.param("heun", marks=pytest.mark.slow), "dpm_solver_pp_2m"])
def test_other_samplers_are_guided_by_both_roads_at_once(places, sampler):
    run = Run(places["conditional"]).guide(Run(places["bayes"]))
    run.configure(sampler=sampler, guidance_scale=2.0, grid="uniform")
    drawn = draw(run.chain(3), run.params, seed=0, indices=np.arange(8), batch_size=8)
    assert drawn.shape == (8, 8, 8, 1)
    assert np.std(drawn) > 10


def test_a_folder_of_one_guidance_is_not_continued_with_another(places, tmp_path):
    run = Run(places["conditional"]).configure(labels="3")
    out = str(tmp_path / "out") + "/"
    sample_run(run, out, num_images=2, seed=0)
    with pytest.raises(UserError, match=r"holds other samples: sample.guidance_scale is 1.0 there and 3.0 here"):
        sample_run(run.configure(guidance_scale=3.0), out, num_images=4, seed=0)
    with pytest.raises(UserError, match="holds other samples: classifier is None there"):
        sample_run(run.configure(guidance_scale=1.0).guide(Run(places["classifier"])), out, num_images=4, seed=0)


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        ("conditional", ["--labels=10"], "labels=10: the classes are numbered from 0 to 9"),
        ("conditional", ["--labels=-1"], "labels=-1: the classes are numbered from 0 to 9"),
        (
            "conditional",
            ["--labels=1,x"],
            "labels=1,x: the classes of this model have no known names; write whole numbers",
        ),
        ("told", ["--labels=none"], "labels=none: this model was not trained without the class"),
        (
            "told",
            ["--guidance_scale=2"],
            "needs a model trained both with and without the class, but this model was trained only",
        ),
        (
            "plain",
            ["--guidance_scale=2"],
            "guidance_scale=2 needs a model trained both with and without the class, but this",
        ),
        ("plain", ["--labels=7"], "labels=7: this model is unconditional"),
        ("plain", ["--labels=all"], "labels=all: this model is unconditional"),
        ("plain", ["--classifier_workdir={conditional}"], "{conditional} is not the run of a classifier"),
        ("plain", ["--classifier_workdir={longer}"], "diffusion.num_timesteps is 8 there and 9 here"),
        ("plain", ["--classifier_scale=3"], "--classifier_scale needs --classifier_workdir=DIR"),
        (
            "conditional",
            ["--labels=none", "--classifier_workdir={classifier}"],
            "labels=none cannot be combined with a classifier",
        ),
        ("conditional", ["--guidance_scale=nan"], "guidance_scale=nan must be 0 or a positive number"),
        ("conditional", ["--guidance_scale=inf"], "guidance_scale=inf must be 0 or a positive number"),
        ("plain", ["--seed=99999999999999999999"], "--seed=99999999999999999999"),
        ("plain", ["--eta=0.5"], "--eta applies only to --sampler=ddim, and the sampler is ancestral"),
        ("plain", ["--sampler=ddim", "--variance=small"], "--variance applies only to --sampler=ancestral"),
        ("told", ["--interpolate=a.png,b.png"], "cannot read the image a.png"),
        ("classifier", [], "{classifier} is the run of a classifier, which cannot draw images"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_in_one_line(places, model, arguments, message):
    arguments = [argument.format(**places) for argument in arguments]
    outcome = run_program("sample.py", f"--workdir={places[model]}", *arguments)
    assert outcome.status == 1
    assert outcome.err.startswith("error: ")
    assert message.format(**places) in outcome.err
    assert outcome.err.count("\n") == 1


CIFAR = {"data.source": "tfds", "data.name": "cifar10"}


def changed(run, changes):
    for key, value in changes.items():
        group, _, name = key.partition(".")
        run.config[group][name] = value
    return run


@pytest.mark.parametrize(
    ("model", "changes", "named"),
    [
        ("plain", {"data.image_size": 16}, "data.image_size"),
        ("plain", {"data.channels": 3}, "data.channels"),
        ("plain", {"diffusion.beta_end": 0.1}, "diffusion.beta_end"),
        ("plain", {"data.name": "svhn"}, "data.name"),
        ("plain", {"data.crop": (0, 0, 4, 4)}, "data.crop"),
        ("conditional", {"data.label": "other"}, "data.label"),
        ("conditional", {"labels.names": tuple("9876543210")}, "labels.names"),
        ("conditional", {"labels.num_classes": 5, "labels.names": ()}, "labels.num_classes"),
    ],
)
def test_a_classifier_of_other_images_or_classes_is_refused(places, model, changes, named):
    digits = {"labels.names": tuple("0123456789")} if model == "conditional" else {}
    denoiser = changed(Run(places[model]), {**CIFAR, **digits})
    with pytest.raises(UserError, match=rf"classifies other images than .*: {named} is [^:]* here$"):
        denoiser.guide(changed(Run(places["classifier"]), {**CIFAR, **changes}))


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("plain", {"data.source": "folder", "data.path": "/elsewhere/moved", "data.label": "other"}),
        ("plain", {"data.source": "tfds", "data.name": "cifar10:3.0.2", "data.label": "other"}),
        ("plain", {"data.path": "relative"}),
        ("conditional", {"data.path": "relative", "labels.names": tuple("0123456789")}),
        ("conditional", {"diffusion.beta_start": 1e-4 * (1 + 1e-12)}),
    ],
)
def test_where_the_images_lie_and_what_does_not_matter_may_differ(places, model, changes):
    denoiser = changed(Run(places[model]), CIFAR)
    assert denoiser.guide(changed(Run(places["classifier"]), changes)).classifier
    assert denoiser.class_names == changes.get("labels.names", ())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"labels__num_classes": 9}, "the images have 10 classes, but config.labels.num_classes is 9"),
        ({"labels__dropout": 0.1}, "config.labels.dropout needs a model with classes: set their number"),
        ({"task": "classify"}, "a classifier needs classes: set their number"),
        ({"posterior__weights": "all"}, "config.posterior.weights applies only to classifiers"),
        ({"task": "guess"}, r"config.task='guess' is not one of: denoise, distil, classify"),
    ],
)
def test_a_training_that_makes_no_sense_is_refused(tmp_path, overrides, message):
    with pytest.raises(UserError, match=message):
        train.train(tiny_config(**overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_network_sees_the_class_unless_it_is_hidden():
    """At the configured rate, and under the number after the last class."""
    seen = []

    class Network:
        def apply(self, variables, x, index, label, **options):
            seen.append(np.asarray(label))
            return 0 * x

    config = tiny_config(**CONDITIONAL)
    step = factory.train_spec(config, factory.network(config), num_images=1)
    terms = factory.objective(config, Network(), num_images=1)
    source = Digits("train")
    batch = {name: np.stack([source[i][name] for i in range(400)]) for name in ("image", "label")}
    examples = draw_examples(step, batch, jax.random.key(0), times_state=step.times.init())
    terms({}, examples, jax.random.key(1))
    (label,) = seen
    assert abs(np.mean(label == 10) - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 400)
    np.testing.assert_array_equal(label[label != 10], batch["label"][label != 10])


def test_the_bound_is_that_of_the_images_own_classes(places):
    """With the classes of other images it is another number."""
    run = Run(places["conditional"])

    class Shifted:
        num_classes, class_names = 10, ()

        def __init__(self, by):
            self.source, self.by = Digits("test"), by

        def __len__(self):
            return 16

        def __getitem__(self, index):
            example = self.source[index]
            return {**example, "label": np.int32((example["label"] + self.by) % 10)}

    own, again, other = (
        evaluate(run, ["bpd"], source=Shifted(by), num_images=16)["bpd"]["bits_per_dim"] for by in (0, 10, 1)
    )
    assert own == again != other
