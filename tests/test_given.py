"""Objects that a program gives: those of another form are refused in one line and leave nothing; all are noted."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from support.tiny import save, tiny_config
from test_howto import Mlp, huber, one_batch

import ddpm_jax as dj
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.evaluate import Metric
from ddpm_jax.factory import described

pytestmark = pytest.mark.usefixtures("quick_compilation")

IMAGES = np.zeros((16, 8, 8, 1), np.uint8)


class Wide(nn.Module):
    """Returns one channel more than it gets."""

    @nn.compact
    def __call__(self, x_t, index, label, train=False):
        return nn.Conv(x_t.shape[-1] + 1, (1, 1))(x_t)


class Normed(nn.Module):
    """Has running statistics."""

    @nn.compact
    def __call__(self, x_t, index, label, train=False):
        return nn.BatchNorm(use_running_average=True)(x_t)


class Bare(nn.Module):
    """Takes the image alone."""

    @nn.compact
    def __call__(self, x_t):
        return x_t


class Same(nn.Module):
    """Has no parameters."""

    def __call__(self, x_t, index, label, train=False):
        return x_t


class Restless(nn.Module):
    """Needs a key of dropout also when it draws."""

    @nn.compact
    def __call__(self, x_t, index, label, train=False):
        return nn.Dropout(0.5, deterministic=False)(nn.Dense(1)(x_t))


class Tableless(nn.Module):
    """Has no row for the null label."""

    @nn.compact
    def __call__(self, x_t, index, label, train=False):
        return nn.Dense(1)(x_t) + nn.Embed(10, 1)(label)[:, None, None]


class Odd(dj.ArrayImages):
    """Sixteen black images, of which one is another example."""

    def __init__(self, example, *, at=9, classes=0):
        super().__init__(IMAGES)
        self.example, self.at, self.num_classes = example, at, classes

    def __getitem__(self, index):
        return self.example if index == self.at else super().__getitem__(index)


def of(image=IMAGES[0], label=0):
    return {"image": image, "label": label}


def terms(**more):
    return lambda denoise, x_0, keys, transition: {"loss": x_0.mean((1, 2, 3)), **dict.fromkeys(more, x_0[:, 0, 0, 0])}


class NoNames:
    """A data set of torch, which has neither classes nor names."""

    def __len__(self):
        return 16

    def __getitem__(self, index):
        return of()


REFUSED = [
    ({"network": Wide()}, r"^the network returns float32 \[2, 8, 8, 2\] for two images, not .* \[2, 8, 8, 1\]$"),
    ({"network": Normed()}, r"^the network has the variables .*batch_stats.*: only params can be trained$"),
    ({"network": Bare()}, r"^the network cannot be called as network\(x_t, index, label\), and with train=True"),
    ({"network": Same()}, "^the network has no parameters: only params can be trained$"),
    ({"network": Restless()}, "^the network cannot be called as .* dropout key: "),
    ({"network": Mlp}, r"^network= must be a linen module made from it, as in Mlp\(\), and not <class "),
    ({"loss": lambda denoise, x_0, keys, transition: {"mine": x_0}}, r'^a loss must return \{"loss": \[B\], ...\}'),
    ({"loss": lambda denoise, x_0, keys, transition: {"loss": x_0.mean()}}, r'^a loss must return \{"loss": \[B\]'),
    ({"loss": lambda denoise, x_0, keys, transition: 3}, r"one number per image in every term, not 3"),
    ({"loss": lambda denoise, x_0: {}}, r"^loss= must be a function \(denoise, x_0, keys, transition\), and takes"),
    ({"loss": "l1"}, r"^loss= must be a function \(denoise, x_0, keys, transition\), and not 'l1'$"),
    ({"loss": terms(grad_norm=1)}, "the name 'grad_norm': give this term another name"),
    ({"loss": terms(step=1)}, "^the log has another number of the name 'step'"),
    ({"loss": terms(loss_t2=1)}, "^the log has another number of the name 'loss_t2'"),
    ({"source": one_batch(label=np.zeros(4, int), image=IMAGES[:4])}, r"\[4, 8, 8, 1\] in place of \[8, 8, 8, 1\]"),
    ({"source": one_batch(image=np.zeros((8, 16, 16, 1), np.uint8))}, r"\[8, 16, 16, 1\] in place of \[8, 8, 8, 1\]"),
    ({"source": one_batch(image=np.zeros((8, 8, 8, 1)))}, "must be uint8 in 0..255, not float64"),
    ({"source": [{"image": IMAGES[:8]}]}, "'label' is missing"),
    ({"source": one_batch(label=np.full(8, 10))}, r"^the data has a label 10, and there are 10 classes: 0 to 9$"),
    ({"source": iter(one_batch())}, r"^the given batches ended after step 1: give more, or an iterable that can"),
    ({"source": lambda step: one_batch()}, r"^the given batches ended after step 1: "),
    ({"source": []}, r"^the given batches ended after step 0: "),
    ({"source": [(IMAGES[:8], np.zeros(8, int))]}, r"'image' and 'label' is missing \(tuple\)"),
    ({"source": lambda step: 3}, "^the function of batches returned 3, which cannot be iterated"),
    ({"source": lambda: one_batch()}, r"^source= must be a function \(step\), and takes \(\): "),
    ({"source": 3}, r"^source= must be a Source such as ArrayImages, an iterable of .* and not 3$"),
    ({"source": "images/"}, r"^source='images/' is a path: leave source= out, and set config.data.source"),
    ({"source": IMAGES}, r"^source= is an array or a tuple of arrays: give ArrayImages\(images, labels\)$"),
    ({"source": (IMAGES, np.zeros(16, int))}, r"^source= is an array or a tuple of arrays: "),
    ({"source": NoNames()}, "^source= of type NoNames has no num_classes or no class_names"),
    ({"source": dj.ArrayImages(np.zeros((2, 8, 9), np.uint8))}, "^the images of the source must be square, "),
    ({"source": Odd(of(label=10), classes=10)}, "^image 9 of the data has the label 10, .*: 0 to 9"),
    ({"source": Odd(of(label=-1), classes=10)}, "^image 9 of the data has the label -1, "),
    ({"source": Odd(of(label=0.5), classes=10)}, r"^image 9 of the data must be .*, its label float64 \[\]"),
    ({"source": Odd(of(np.zeros((8, 8, 1))), classes=10)}, r"^image 9 .* its image is float64 \[8, 8, 1\]"),
    ({"source": Odd(of(IMAGES[0, :, :, 0]), classes=10)}, r"^image 9 .* its image is uint8 \[8, 8\]"),
    ({"source": Odd(of(np.zeros((9, 9, 1), np.uint8)), classes=10)}, r"^image 9 of the data has the shape \[9, 9, 1\]"),
    ({"source": Odd((IMAGES[0], 0), at=0, classes=10)}, "^image 0 of the data must be .*, and is a tuple"),
    ({"source": Odd({"img": 0}, classes=10)}, "^image 9 of the data must be .*, and is a dict of img"),
    ({"hooks": print}, r"^hooks= must be a list of functions \(step, state, metrics\): write hooks=\[hook\]$"),
    ({"hooks": [lambda step: 0]}, r"^a hook must be a function \(step, state, metrics\), and takes \(step\): "),
]  # fmt: skip


FED = [(*row, False) for row in REFUSED] + [
    (*row, True) for row in REFUSED if isinstance(row[0].get("source"), dj.ArrayImages)
]


@pytest.mark.parametrize(("objects", "message", "on_device"), FED)
def test_objects_of_another_form_are_refused_in_one_line_and_leave_nothing(objects, message, on_device, tmp_path):
    """After at most three steps, in which every image of a source is read; what was trained before is saved."""
    config = tiny_config(labels__num_classes=10, data__on_device=on_device, train__num_steps=3)
    with pytest.raises(UserError, match=message):
        dj.train(config, tmp_path / "runs" / "one", **{"network": Mlp(), **objects})
    left = [path.name for path in tmp_path.rglob("checkpoints/*")]
    assert left in ([], ["1"]), left
    assert list(tmp_path.iterdir()) == [] or left


class Local(dj.ArrayImages):
    """Cannot be pickled."""

    def __reduce__(self):
        raise TypeError("of this class")


def test_what_cannot_be_sent_to_other_processes_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"^the source cannot be sent to .* \(of this class"):
        dj.train(
            tiny_config(data__num_workers=1, data__on_device=False),
            tmp_path / "run",
            source=Local(IMAGES),
            network=Mlp(),
        )
    with pytest.raises(UserError, match=r"^the data set contains no images$"):
        dj.train(tiny_config(), tmp_path / "run", source=Empty(), network=Mlp())
    assert list(tmp_path.iterdir()) == []


class Empty(dj.ArrayImages):
    """Has no images."""

    def __init__(self):
        super().__init__(IMAGES)

    def __len__(self):
        return 0


def test_a_table_without_the_null_label_is_named(tmp_path, capsys):
    config = tiny_config(labels__num_classes=10, labels__dropout=0.9, train__num_steps=2)
    with pytest.raises(UserError, match=r"give its table of classes a row for the null label 10, or lower --config"):
        dj.train(config, tmp_path, network=Tableless())
    assert "also gets the label 10, the null label, so its table of classes needs 11 rows\n" in capsys.readouterr().out


def test_a_classifier_of_a_program_needs_classes(tmp_path):
    with pytest.raises(UserError, match=r"^a classifier needs classes: "):
        dj.train(tiny_config(task="classify"), tmp_path, network=Mlp())


def test_another_object_is_noted_when_a_run_is_resumed_or_opened(tmp_path, capsys):
    """Of the same shapes; the same object is not noted, though its functions are others in every process."""
    config, source = tiny_config(train__num_steps=1), dj.ArrayImages(IMAGES)
    dj.train(config, tmp_path, network=Mlp(), source=source, loss=huber)
    config.train.num_steps = 2
    capsys.readouterr()
    dj.train(config, tmp_path, network=Mlp(), source=dj.ArrayImages(IMAGES), loss=huber)
    assert "given" not in capsys.readouterr().out
    config.train.num_steps = 3
    dj.train(config, tmp_path, network=Other(), source=dj.ArrayImages(IMAGES[:9]), loss=terms())
    noted = capsys.readouterr().out
    for old, new in (
        ("Mlp()", "Other()"),
        ("ArrayImages of 16 images", "ArrayImages of 9 images"),
        ("huber", "terms.<locals>.<lambda>"),
    ):
        assert f"was '{old}' in this run so far and is '{new}' from now on" in noted
    run = dj.Run(tmp_path, network=Mlp())
    assert "note: the run was trained with the network Other(), not Mlp()\n" in capsys.readouterr().out
    assert run.digest() != dj.Run(tmp_path, network=Other()).digest()
    assert capsys.readouterr().out == ""


class Other(Mlp):
    """The same parameters under another name."""


def test_objects_are_described_the_same_in_every_process():
    class Wider(Mlp):
        width: int = 3
        act: object = object()

    assert described(Wider()).endswith("Wider( width = 3 act = <object object> )")
    assert [described(thing) for thing in (None, huber, one_batch(), partial(huber))] == [
        "",
        "huber",
        "list",
        "partial",
    ]


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
        with pytest.raises(UserError, match=r"^seed=\S+ must be a whole number of at least 0 and less than"):
            run.sample(1, seed=seed)
    for num_steps in (2.5, -1):
        with pytest.raises(UserError, match=r"^num_steps=\S+ must be a whole number of 0 or above$"):
            run.sample(1, num_steps=num_steps)
    assert run.configure(eta=np.float32(0.5), num_steps=np.int64(3), clip_x_0=np.bool_(False)).config.sample.eta == 0.5


def test_classes_may_be_called_all_and_none(tmp_path):
    config = tiny_config(labels__num_classes=3, labels__dropout=0.2, labels__names=("none", "all", "a,b"))
    run = dj.Run(save(tmp_path, config))
    assert run.configure(labels=["none", "a,b", "all"]).labels() == (0, 2, 1)
    assert run.configure(labels="none").labels() == (3,)


def test_hooks_may_come_from_a_generator(tmp_path):
    seen = []
    hooks = (hook for hook in [lambda step, state, metrics: seen.append(step)])
    dj.train(tiny_config(train__num_steps=2), tmp_path, network=Mlp(), hooks=hooks)
    assert seen == [1, 2]


class Plain(nn.Module):
    """A classifier of a program."""

    @nn.compact
    def __call__(self, x_t, index, train=False):
        return nn.Dense(3)(x_t.reshape(len(x_t), -1))


def test_a_posterior_over_no_weight_is_refused(tmp_path):
    config = tiny_config(task="classify", labels__num_classes=3, posterior__weights="last")
    source = dj.ArrayImages(IMAGES, np.zeros(16, int), num_classes=3)
    with pytest.raises(UserError, match=r"^config.posterior.weights=last chooses no weight of this network: use all"):
        dj.train(config, tmp_path / "run", network=Plain(), source=source)
    assert list(tmp_path.iterdir()) == []


def test_names_of_numpy_are_names_and_names_that_do_not_fit_are_noted(tmp_path, capsys):
    source = dj.ArrayImages(IMAGES, np.arange(16) % 2, class_names=np.array(["cat", "dog"]))
    assert source.class_names == ("cat", "dog")
    source.class_names = np.array(["cat", "dog", "ant"])
    dj.train(tiny_config(labels__num_classes=2, train__num_steps=1), tmp_path, network=Mlp(), source=source)
    assert (
        "note: the class names of the data are not used: there are 3 of them, and each of the 2"
        in capsys.readouterr().out
    )
    with pytest.raises(UserError, match=r"^num_classes=1 does not fit the labels or the class names$"):
        dj.ArrayImages(IMAGES, np.arange(16) % 2, num_classes=1)


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
            "^the result of the metric mine has a value that JSON does not have: set is neither",
        ),
        ({"mine": number(jnp.nan)}, r"^mine was not written, because it is not finite \(value\)"),
        (
            {"mine": Metric(lambda run, images, num_steps: 3)},
            r"^the metric mine must return \{name: value\}, and returned 3",
        ),
        ({"mine": Metric(lambda run, images, num_steps: {"step": 3})}, "the metric mine may not have the key 'step'"),
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


def test_a_hook_may_change_its_metrics(tmp_path):
    kept = dj.train(
        tiny_config(train__num_steps=2), tmp_path, network=Mlp(), hooks=[lambda s, state, metrics: metrics.clear()]
    )
    assert kept.step == 2
    assert [line["step"] for line in dj.read_log(tmp_path)] == [1, 2]


def test_the_names_of_a_single_class_are_not_letters():
    with pytest.raises(UserError, match=r"^every class needs a name of its own, and the names are cat, cat$"):
        dj.ArrayImages(IMAGES, np.zeros(16, int), class_names=("cat", "cat"))
    with pytest.raises(UserError, match=r"^class_names must be a sequence of names, such as \('cat',\)$"):
        dj.ArrayImages(IMAGES, np.zeros(16, int), class_names="cat")


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
    with pytest.raises(UserError, match=r"^--labels=#30: the classes are numbered from 0 to 9$"):
        run.configure(labels=30).guide(classifier)
    assert run.classifier is None


def test_a_network_of_a_program_is_not_exported_by_the_settings_of_another(tmp_path):
    network = dj.UNet(dj.Architecture(channels=8, channel_mult=(1,), norm_groups=4, norm_epsilon=0.1), out_channels=1)
    dj.train(tiny_config(train__num_steps=1), tmp_path / "run", network=network)
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
