"""Objects and settings that a program gives to an opened run: samplers, metrics, images, labels, seeds."""

import jax.numpy as jnp
import numpy as np
import pytest
from support.tiny import given_config, save, tiny_config
from test_given import IMAGES
from test_howto import one_batch

import ddpm_jax as dj
from ddpm_jax import factory
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.evaluate import Metric

pytestmark = pytest.mark.usefixtures("quick_compilation")


def step(denoise, keys, state, transition):
    x_0 = denoise(state.x, transition.now).x_0
    return dj.SamplerState(x_0), dj.StepInfo(x_0)


def remembering(memory):
    return dj.Sampler(lambda x: dj.SamplerState(x, memory), lambda d, k, state, t: (state, dj.StepInfo(state.x)))


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        ("heun", r"^sampler= must be a Sampler, such as samplers.heun\(\), and not 'heun'$"),
        (dj.samplers.heun, r"^sampler= must be a Sampler, such as samplers.heun\(\), and not <function"),
        (dj.Sampler(dj.SamplerState, lambda *a: step(*a)[0]), r"step must return \(SamplerState, StepInfo\)"),
        (dj.Sampler(lambda x: x, step), r"init must return a SamplerState .*, not ShapeDtypeStruct$"),
        (dj.Sampler(lambda x: dj.SamplerState(x.astype(jnp.bfloat16)), step), r"init must .*, not x of bfloat16 "),
        (dj.Sampler(lambda x: dj.SamplerState(x, jnp.ones(2)), step), "^the sampler's step returns the state "),
        (remembering(jnp.zeros(())), r"^every array in a sampler's memory must be \[B, ...\]"),
        (dj.Sampler(dj.SamplerState, lambda denoise, keys, state: 0), "^a sampler.s step must be a function"),
        (dj.Sampler(dj.SamplerState, lambda d, k, s, t: (s, dj.StepInfo(d(s.x, t.now)))), r"^StepInfo.x_0 of"),
    ],
)  # fmt: skip
def test_what_is_not_a_sampler_is_one_line(sampler, message, tmp_path):
    run = dj.Run(save(tmp_path, tiny_config()))
    with pytest.raises(UserError, match=message):
        run.sample(1, sampler=sampler)


def test_another_sampler_of_the_same_functions_is_compiled_again(tmp_path):
    """They may read other values now."""
    run, scale = dj.Run(save(tmp_path, tiny_config())), [1.0]
    scaled = lambda *arguments: (dj.SamplerState(step(*arguments)[0].x * scale[0]), step(*arguments)[1])
    first = run.sample(1, num_steps=2, sampler=dj.Sampler(dj.SamplerState, scaled))
    scale[0] = 0.0
    assert np.all(run.sample(1, num_steps=2, sampler=dj.Sampler(dj.SamplerState, scaled)) == 128)
    assert not np.all(first == 128)
    for seed in (-1, 2**32, 0.5):
        with pytest.raises(UserError, match=r"^seed=\S+ must be a whole number, at least 0 and less than"):
            run.sample(1, seed=seed)
    for num_steps in (2.5, -1):
        with pytest.raises(UserError, match=r"^num_steps=\S+ must be a whole number of at least 0$"):
            run.sample(1, num_steps=num_steps)
    assert run.configure(eta=np.float32(0.5), num_steps=np.int64(3), clip_x_0=np.bool_(False)).config.sample.eta == 0.5


def test_classes_may_be_called_all_and_none(tmp_path):
    config = tiny_config(labels__num_classes=3, labels__dropout=0.2, labels__names=("none", "all", "a,b"))
    run = dj.Run(save(tmp_path, config))
    assert run.configure(labels=["none", "a,b", "all"]).labels() == (0, 2, 1)
    assert run.configure(labels="none").labels() == (3,)


def test_a_run_keeps_few_chains(tmp_path):
    run = dj.Run(save(tmp_path, tiny_config()))
    for _ in range(20):
        run.chain(2, sampler=dj.samplers.ddim(0.5))
    assert len(run._compiled) == 16


def test_what_is_filled_in_has_the_form_of_an_image(tmp_path):
    run, mask = dj.Run(save(tmp_path, tiny_config())), np.zeros((8, 8, 1))
    for image in (IMAGES[0], np.zeros((9, 9, 1)), np.full((8, 8, 1), 255.0), np.full((8, 8, 1), np.nan)):
        with pytest.raises(UserError, match=r"^the image must be \[8, 8, 1\] of floats in \[-1, 1\], and is "):
            run.inpaint(image, mask)
    for known in (np.zeros((8, 8)), np.full((8, 8, 1), 255), np.full((8, 8, 1), np.nan)):
        with pytest.raises(UserError, match=r"^known must be \[8, 8, 1\], 1 where the image is kept and 0 where"):
            run.inpaint(np.zeros((8, 8, 1)), known)
    assert run.inpainting is None


def number(value=1.0):
    return Metric(lambda run, images, *, num_steps: {"value": value, "all": np.arange(2), "more": (None, jnp.ones(()))})


def test_a_metric_of_a_program_is_measured_written_and_printed(tmp_path):
    run, source = dj.Run(save(tmp_path, tiny_config())), dj.ArrayImages(IMAGES)
    own = {"my-metric.v2": number(np.float32(0.5))._replace(lines=lambda result: [f"mine is {result['value']}"])}
    results = dj.evaluate(run, own, source=source, num_images=2)
    assert {**results["my-metric.v2"], "step": 0} == {
        "step": 0, "params": "ema", "num_images": 2, "value": 0.5, "all": [0, 1], "more": [None, 1.0],
    }  # fmt: skip
    assert dj.table(results, own) == ["my-metric.v2", "mine is 0.5"]
    assert "  value        0.5" in dj.table(results)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"../evil": number()}, "^a metric's name must be of letters"),
        ({"bpd": number()}, "^there is a metric bpd already"),
        ({"mine": print}, r"^the metric mine must be a Metric, as in Metric\(function\), not <built-in"),
        (
            {"mine": number({1, 2})},
            "^the result of the metric mine has a value that cannot be written as JSON: set is neither",
        ),
        ({"mine": number(jnp.nan)}, r"^mine was not written, because it is not finite \(value\)"),
        (
            {"mine": Metric(lambda run, images, num_steps: 3)},
            r"^the metric mine must return \{name: value\}, and returned 3",
        ),
        ({"mine": Metric(lambda run, images, num_steps: {"step": 3})}, "the metric mine may not have the key 'step'"),
        (
            {"mine": Metric(lambda run, images: {})},
            r"^the metric mine must be a function \(run, images, \*, num_steps\), and takes \(run, images\): ",
        ),
        (
            {"mine": number()._replace(task="clasify")},
            r"^the metric mine has task='clasify', which is not one of: denoise, classify; did you mean 'classify'",
        ),
        ([number()], "^there is no metric Metric"),
    ],
)
def test_a_metric_of_another_form_is_one_line_and_writes_nothing(metrics, message, tmp_path):
    run = dj.Run(save(tmp_path, tiny_config()))
    with pytest.raises(UserError, match=message):
        dj.evaluate(run, metrics, source=dj.ArrayImages(IMAGES), num_images=2)
    assert not list(tmp_path.glob("evaluation/*"))
    for counts in ({"num_images": 0}, {"batch_size": 2.5}):
        with pytest.raises(UserError, match="must be a whole number of at least 1"):
            dj.evaluate(run, ["bpd"], source=dj.ArrayImages(IMAGES), **counts)
    with pytest.raises(UserError, match=r"^no metric is named; choose from bpd, "):
        dj.evaluate(run, [])


def test_a_metric_for_the_other_task_says_how_to_change_it(tmp_path):
    run = dj.Run(save(tmp_path, tiny_config(task="classify", labels__num_classes=10)))
    source = dj.ArrayImages(IMAGES, np.arange(16) % 10)
    message = (
        r"config.task=classify: choose the metrics from accuracy, or write Metric\(..., task='classify'\) if mine "
    )
    with pytest.raises(UserError, match=message):
        dj.evaluate(run, {"mine": number()}, source=source)
    with pytest.raises(UserError, match=r"config.task=classify: choose the metrics from accuracy$"):
        dj.evaluate(run, ["bpd"], source=source)
    assert "mine" in dj.evaluate(run, {"mine": number()._replace(task="classify")}, source=source, num_images=2)


def test_a_table_takes_what_evaluate_takes():
    result = {"spectrum": {"settling_time": [1.0]}}
    assert dj.table(result, ["spectrum"]) == dj.table(result) == dj.table(result, {"mine": number()})
    with pytest.raises(UserError, match=r"^there is no metric 'spectra'; did you mean 'spectrum'\?$"):
        dj.table(result, ["spectra"])


def test_images_that_are_checked_are_not_checked_again(tmp_path, capsys):
    config = tiny_config(labels__num_classes=2, labels__names=("cat", "dog"))
    source = dj.ArrayImages(IMAGES, np.arange(16) % 2, class_names=("dog", "cat"))
    fitted = factory.fitted(config, source)
    assert fitted is not source
    assert factory.fitted(config, fitted) is fitted
    assert [int(fitted[i]["label"]) for i in range(2)] == [1, 0]
    plain = factory.fitted(tiny_config(), source)
    assert factory.fitted(tiny_config(), plain) is plain
    with pytest.raises(UserError, match=r"^image 0 of the data has the shape \[8, 8, 1\] in place of \[9, 9, 1\]$"):
        factory.fitted(tiny_config(data__image_size=9), plain)[0]
    source.class_names = ("cat",)
    run = dj.Run(save(tmp_path, tiny_config()))
    capsys.readouterr()
    dj.evaluate(run, {"mine": number()}, source=factory.fitted(run.config, source), num_images=2)
    assert capsys.readouterr().out.count("note: the class names of the data are not used") == 1


def test_settings_without_effect_are_refused_where_they_are_set(tmp_path):
    run = dj.Run(save(tmp_path / "run", tiny_config()))
    classifier = dj.Run(save(tmp_path / "classifier", tiny_config(task="classify", labels__num_classes=10)))
    before = run.config
    refused = [
        ({"classifier_scale": 2}, r"^classifier_scale=2 has no effect without a classifier: call run.guide\(Run"),
        ({"sampler": dj.samplers.heun()}, r"^sampler=.* must be of type str; give a Sampler to run.sample\(sampler"),
        *(
            ({"labels": labels}, rf"^labels={words}: this model is unconditional; .*, or let a classifier guide")
            for labels, words in ((30, "#30"), ("all", "all"), ("none", "none"), ([1, 2], "#1,#2"))
        ),
    ]  # fmt: skip
    for settings, message in refused:
        with pytest.raises(UserError, match=message):
            run.configure(eta=0.5, **settings)
    assert run.config is before
    assert run.configure(labels="", classifier_scale=None).labels() == ()
    assert run.guide(classifier).configure(labels=7, classifier_scale=2).labels() == (7,)
    assert run.config.sample.classifier_scale == 2
    with pytest.raises(UserError, match=r"^labels=#30: the classes are numbered from 0 to 9$"):
        run.configure(labels=30)


def test_a_path_is_not_an_opened_run(tmp_path):
    with pytest.raises(UserError, match=r"^export_diffusers needs an opened run: Run\('runs/a'\)$"):
        dj.export_diffusers("runs/a", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (one_batch(), "^a source needs __len__, __getitem__, num_classes and class_names"),
        (
            dj.ArrayImages(np.zeros((4, 9, 9), np.uint8), [9, 0, 0, 0]),
            r"^image 0 of the data has the shape \[9, 9, 1\] in place of",
        ),
        (dj.ArrayImages(IMAGES), "^the images have no classes, but config.labels.num_classes is 10$"),
        (dj.ArrayImages(IMAGES, np.arange(16) % 3), "^the images have 3 classes, but config.labels.num_classes is 10$"),
    ],
)
def test_other_images_are_not_measured(source, message, tmp_path):
    run = dj.Run(save(tmp_path, tiny_config(labels__num_classes=10)))
    with pytest.raises(UserError, match=message):
        dj.evaluate(run, ["bpd"], source=source, num_images=2)


def test_images_of_bytes_are_not_taken_for_images_in_minus_one_to_one(tmp_path):
    """Where they would silently give another result."""
    run = dj.Run(save(tmp_path / "run", tiny_config()))
    with pytest.raises(UserError, match=r"^the image must be \[8, 8, 1\] of floats in \[-1, 1\], and is uint8"):
        dj.editing.interpolation(run, IMAGES[0], IMAGES[1])
    with pytest.raises(UserError, match=r"^the images are uint8 already: "):
        dj.to_uint8(IMAGES)
    with pytest.raises(UserError, match=r"^from_uint8 is for images of whole numbers from 0 to 255, not float64$"):
        dj.from_uint8(np.zeros((8, 8, 1)))
    with pytest.raises(
        UserError, match=r"^a picture shows images \[N, H, W, 1 or 3\], and their shape is \[2, 8, 8, 5\]$"
    ):
        dj.picture(np.zeros((2, 8, 8, 5), np.uint8))
    classifier = dj.Run(save(tmp_path / "classifier", tiny_config(task="classify", labels__num_classes=10)))
    for images in (IMAGES[:2], np.zeros((2, 9, 9, 1))):
        with pytest.raises(UserError, match=r"^the images must be \['N', 8, 8, 1\] of floats, and are "):
            classifier.log_probs(images)
    with pytest.raises(UserError, match=r"^t=21: times must be 0 or lie in \[1, 20\], got 21"):
        classifier.log_probs(np.zeros((2, 8, 8, 1)), t=21)
    with pytest.raises(UserError, match=r"^guide needs an opened run of a classifier: Run\('runs/c'\)$"):
        run.guide("runs/c")
    assert run.classifier is None


@pytest.mark.slow
def test_a_network_of_a_program_is_not_exported_by_the_settings_of_another(tmp_path):
    network = dj.UNet(dj.Architecture(channels=8, channel_mult=(1,), norm_groups=4, norm_epsilon=0.1), out_channels=1)
    dj.train(given_config(train__num_steps=1), tmp_path / "run", network=network)
    with pytest.raises(
        UserError, match=r"^diffusers has no form for the network of \S+/run, which a program has defined$"
    ):
        dj.export_diffusers(dj.Run(tmp_path / "run", network=network), tmp_path / "out")


def test_a_target_may_be_named():
    level = dj.schedules.linear(10).level(3)
    x = jnp.ones((1, 2, 2, 1))
    for target in dj.Target:
        named, own = (dj.as_denoiser(lambda v, x, i, k: x / 2, {}, t)(x, level) for t in (target.value, target))
        np.testing.assert_array_equal(named.x_0, own.x_0)
    with pytest.raises(ValueError, match="'noise' is not a valid Target"):
        dj.as_denoiser(lambda v, x, i, k: x, {}, "noise")
