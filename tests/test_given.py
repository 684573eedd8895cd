"""Objects that a program gives: those of another form are refused in one line and leave nothing; all are noted."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import FrozenConfigDict
from support.tiny import given_config
from test_howto import Mlp, huber, one_batch

import ddpm_jax as dj
from ddpm_jax.errors import UserError
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


def unfinished(denoise, x_0, keys, transition):
    return {"loss": x_0.mean((1, 2, 3)), "more": jnp.full(len(x_0), jnp.nan)}


class Callable:
    """Batches that can be iterated and called, which takes no step."""

    def __iter__(self):
        return iter(one_batch())

    def __call__(self):
        return one_batch()


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
    ({"loss": terms(grad_norm=1)}, "the name 'grad_norm': give this term of the loss"),
    ({"loss": terms(step=1)}, "^the log already uses the name 'step'"),
    ({"loss": terms(loss_t2=1)}, "^the log already uses the name 'loss_t2'"),
    ({"loss": terms(held_out_mine=1)}, "^the log already uses the name 'held_out_mine'"),
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
    ({"source": Callable()}, r"^source= of type Callable can be called, so it is not iterated: it must .* takes \(\)"),
    ({"loss": unfinished}, r"^the loss has a term 'more' that is not finite \(its mean is nan\) at step 1, on "),
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
    config = given_config(labels__num_classes=10, data__on_device=on_device, train__num_steps=3)
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
            given_config(data__num_workers=1),
            tmp_path / "run",
            source=Local(IMAGES),
            network=Mlp(),
        )
    with pytest.raises(UserError, match=r"^the data set contains no images$"):
        dj.train(given_config(), tmp_path / "run", source=Empty(), network=Mlp())
    assert list(tmp_path.iterdir()) == []


class Empty(dj.ArrayImages):
    """Has no images."""

    def __init__(self):
        super().__init__(IMAGES)

    def __len__(self):
        return 0


def test_a_table_without_the_null_label_is_named(tmp_path, capsys):
    config = given_config(labels__num_classes=10, labels__dropout=0.9, train__num_steps=2)
    with pytest.raises(UserError, match=r"give its table of classes a row for the null label 10, or lower config"):
        dj.train(config, tmp_path, network=Tableless())
    assert "also gets the label 10, the null label, so its table of classes needs 11 rows\n" in capsys.readouterr().out


def test_a_classifier_of_a_program_needs_classes(tmp_path):
    with pytest.raises(UserError, match=r"^a classifier needs classes: "):
        dj.train(given_config(task="classify"), tmp_path, network=Mlp())


def test_another_object_is_noted_when_a_run_is_resumed_or_opened(tmp_path, capsys):
    """Of the same shapes; the same object is not noted, though its functions are others in every process."""
    config, source = given_config(train__num_steps=1), dj.ArrayImages(IMAGES)
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
        "partial(huber)",
    ]


@dataclasses.dataclass(frozen=True)
class Huber:
    """A loss with a setting."""

    scale: float = 0.5
    norm: object = huber

    def __call__(self, denoise, x_0, keys, transition):
        return huber(denoise, x_0, keys, transition)


class Named:
    """A loss whose settings are attributes."""

    def __init__(self, **settings):
        self.__dict__.update(settings)

    def __call__(self, denoise, x_0, keys, transition):
        return huber(denoise, x_0, keys, transition)

    of_program = __call__


class Slotted:
    """A loss without attributes."""

    __slots__ = ()
    __call__ = Huber.__call__


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (partial(huber, 0.5, cut=print, name="a  b"), "partial(huber, 0.5, cut=<built-in function print>, name='a b')"),
        (partial(Huber(2), 1), "partial(Huber(scale=2, norm=<function huber>), 1)"),
        (Huber(), "Huber(scale=0.5, norm=<function huber>)"),
        (Named(scale=np.arange(2), own=object()), "Named(scale=array([0, 1]), own=<object object>)"),
        (Named(scale=3).of_program, "Named(scale=3).__call__"),
        (Slotted(), "Slotted()"),
        (jax.jit(huber), "huber"),
        (Huber, "Huber"),
    ],
)
def test_a_function_is_described_with_its_settings(given, words):
    assert described(given) == words


def test_another_setting_of_a_loss_is_noted_when_a_run_is_resumed(tmp_path, capsys):
    for steps, scale in ((1, 0.5), (2, 0.5), (3, 0.25)):
        dj.train(given_config(train__num_steps=steps), tmp_path, network=Mlp(), loss=Huber(scale))
        assert ("given.loss was 'Huber(scale=0.5, " in capsys.readouterr().out) == (steps == 3)


def test_images_that_no_picture_shows_are_trained_on_without_previews(tmp_path, capsys):
    config = given_config(train__num_steps=2, log__preview_every=1)
    dj.train(config, tmp_path, network=Mlp(), source=dj.ArrayImages(np.zeros((16, 8, 8, 5), np.uint8)))
    note = "note: no previews: a picture has 1 or 3 channels, and the images have 5\n"
    assert capsys.readouterr().err.count(note) == 1
    assert not (tmp_path / "previews").exists()
    run = dj.Run(tmp_path, network=Mlp())
    for write, out in (
        (partial(dj.sample_run, num_images=2), "grid.png"),
        (partial(dj.sample_run, num_images=2), "folder/"),
        (partial(dj.sample_trajectory, num_images=2), "chain.gif"),
    ):
        with pytest.raises(
            UserError, match=r"^a picture has 1 channel \(grey\) or 3 \(colour\), and the images have 5: "
        ):
            write(run, f"{tmp_path}/{out}", seed=0)
        assert not (tmp_path / out).exists()
    dj.sample_run(run, tmp_path / "images.npz", num_images=2, seed=0, num_steps=2)
    assert np.load(tmp_path / "images.npz")["arr_0"].shape == (2, 8, 8, 5)


def test_a_frozen_configuration_is_a_configuration(tmp_path):
    config = FrozenConfigDict(given_config(train__num_steps=1))
    assert dj.train(config, tmp_path, network=Mlp()).step == 1
    run = dj.Run(tmp_path, network=Mlp())
    run.config = FrozenConfigDict(run.config)
    assert run.configure(eta=0.5, sampler="ddim").config.sample.eta == 0.5


def test_every_object_that_is_missing_is_named_in_one_line(tmp_path):
    config = given_config(train__num_steps=1)
    config.network, config.data.source, config.loss.kind = "custom", "custom", "custom"
    missing = r"from a program: start it with train\(config, '.*', {}\)$"
    given = {"source": dj.ArrayImages(IMAGES), "network": Mlp(), "loss": huber}
    for names, objects in (
        (["source", "network", "loss"], "a source and a network and a loss"),
        (["source", "loss"], "a source and a loss"),
        (["network"], "a network"),
    ):
        arguments = ", ".join(rf"{name}=\.\.\." for name in names)
        with pytest.raises(UserError, match=rf"run needs {objects} {missing.format(arguments)}"):
            dj.train(config, tmp_path / "run", **{name: given[name] for name in given.keys() - set(names)})
    assert list(tmp_path.iterdir()) == []
    dj.train(given_config(train__num_steps=1), tmp_path / "run", **given)
    with pytest.raises(
        UserError, match=r"was trained with a source and a network from a program: resume it with train"
    ):
        dj.train(given_config(train__num_steps=2), tmp_path / "run")


def test_hooks_may_come_from_a_generator(tmp_path):
    seen = []
    hooks = (hook for hook in [lambda step, state, metrics: seen.append(step)])
    dj.train(given_config(train__num_steps=2), tmp_path, network=Mlp(), hooks=hooks)
    assert seen == [1, 2]


class Plain(nn.Module):
    """A classifier of a program."""

    @nn.compact
    def __call__(self, x_t, index, train=False):
        return nn.Dense(3)(x_t.reshape(len(x_t), -1))


def test_a_posterior_over_no_weight_is_refused(tmp_path):
    config = given_config(task="classify", labels__num_classes=3, posterior__weights="last")
    source = dj.ArrayImages(IMAGES, np.zeros(16, int), num_classes=3)
    with pytest.raises(UserError, match=r"^config.posterior.weights=last selects no weights of this network: use all"):
        dj.train(config, tmp_path / "run", network=Plain(), source=source)
    assert list(tmp_path.iterdir()) == []


def test_names_of_numpy_are_names_and_names_that_do_not_fit_are_noted(tmp_path, capsys):
    source = dj.ArrayImages(IMAGES, np.arange(16) % 2, class_names=np.array(["cat", "dog"]))
    assert source.class_names == ("cat", "dog")
    source.class_names = np.array(["cat", "dog", "ant"])
    dj.train(given_config(labels__num_classes=2, train__num_steps=1), tmp_path, network=Mlp(), source=source)
    assert (
        "note: the class names of the data are not used: there are 3 of them, and each of the 2"
        in capsys.readouterr().out
    )
    with pytest.raises(UserError, match=r"^num_classes=1 does not fit the labels or the class names$"):
        dj.ArrayImages(IMAGES, np.arange(16) % 2, num_classes=1)


def test_a_hook_may_change_its_metrics(tmp_path):
    kept = dj.train(
        given_config(train__num_steps=2), tmp_path, network=Mlp(), hooks=[lambda s, state, metrics: metrics.clear()]
    )
    assert kept.step == 2
    assert [line["step"] for line in dj.read_log(tmp_path)] == [1, 2]


def test_the_names_of_a_single_class_are_not_letters():
    with pytest.raises(UserError, match=r"^every class needs its own name, and the names are cat, cat$"):
        dj.ArrayImages(IMAGES, np.zeros(16, int), class_names=("cat", "cat"))
    with pytest.raises(UserError, match=r"^class_names must be a sequence of names, such as \('cat',\)$"):
        dj.ArrayImages(IMAGES, np.zeros(16, int), class_names="cat")


def test_how_images_are_read_has_no_effect_on_given_batches(tmp_path, capsys):
    one = one_batch() * 9
    keys = {"data.on_device": True, "data.num_workers": 2, "data.held_out": 0.5, "log.quality_every": 5}
    for key, value in keys.items():
        config = given_config(train__num_steps=1, **{key.replace(".", "__"): value})
        with pytest.raises(UserError, match=rf"^config.{key}={value} has no effect with batches that a program gives"):
            dj.train(config, tmp_path / "run", source=one, network=Mlp())
    assert list(tmp_path.iterdir()) == []
    dj.train(given_config(train__num_steps=1), tmp_path / "run", source=one, network=Mlp())
    config = given_config(train__num_steps=2, data__num_workers=2)
    dj.train(config, tmp_path / "run", source=one, network=Mlp())
    assert "note: config.data.num_workers=2 has no effect" in capsys.readouterr().out
