"""The programs of docs/howto.md: a stranger's data, network, loss and sampler train, resume bit for bit, and draw."""

import itertools
import re
import sys
from types import ModuleType

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from support.tiny import ROOT, given_config, same, save, tiny_config

import ddpm_jax as dj
from ddpm_jax.errors import UserError
from ddpm_jax.training import inputs, loop
from ddpm_jax.training.log import read_log

pytestmark = pytest.mark.usefixtures("quick_compilation")

PAGE = (ROOT / "docs" / "howto.md").read_text()
PROGRAMS = dict(re.findall(r"^## ([^\n]*)\n(?:(?!^## ).)*?```python\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE))


def huber(denoise, x_0, keys, transition):
    x_t = dj.q_sample(x_0, dj.noise_like(keys, x_0), transition.now)
    error = denoise(x_t, transition.now).x_0 - x_0
    return {"loss": jnp.mean(jnp.abs(error), axis=(1, 2, 3)), "largest": jnp.max(jnp.abs(error), axis=(1, 2, 3))}


class Mlp(nn.Module):
    """A network of a stranger, with dropout."""

    @nn.compact
    def __call__(self, x_t, index, label, train=False):
        h = nn.Dense(16)(x_t.reshape(len(x_t), -1)) + nn.Dense(16)(dj.timestep_embedding(index, 8))
        h = nn.Dropout(0.5, deterministic=not train)(nn.silu(h + nn.Embed(11, 16)(label)))
        return nn.Dense(x_t[0].size)(h).reshape(x_t.shape)


def batches(step):
    """Of seven levels of grey, by the number of the step."""
    for number in itertools.count(step + 1):
        rng = np.random.default_rng(number)
        yield {"image": rng.integers(7, size=(8, 8, 8, 1), dtype=np.uint8), "label": rng.integers(10, size=8)}


def test_the_page_has_the_seven_programs():
    assert len(PROGRAMS) == 7
    lines = {name: [line for line in text.splitlines() if line.strip()] for name, text in PROGRAMS.items()}
    assert all(len(text) <= 15 for text in lines.values()), {name: len(text) for name, text in lines.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_of_the_page_runs(name, tmp_path, monkeypatch):
    """With a tiny configuration in place of each experiment, and images of 8x8."""
    monkeypatch.chdir(tmp_path)
    sizes = {"data__image_size": 8, "train__batch_size": 128, "train__num_steps": 2, "checkpoint__every": 2}
    sizes |= {"data__on_device": False}
    make = given_config if "network=Mlp()" in PROGRAMS[name] else tiny_config
    tiny = lambda experiment: make(**sizes, **({"data__source": "folder"} if experiment == "base" else {}))
    monkeypatch.setattr(dj, "experiment", tiny)
    np.save("images.npy", np.random.default_rng(0).integers(256, size=(40, 8, 8, 1), dtype=np.uint8))
    save(tmp_path / "runs" / "digits", tiny_config())
    theirs = ModuleType("their_library")
    theirs.network = lambda x, sigma: x / (1 + jnp.reshape(sigma, (-1, 1, 1, 1)) ** 2)  # exact for data of N(0, I)
    monkeypatch.setitem(sys.modules, "their_library", theirs)
    program = PROGRAMS[name].replace("20_000", "2").replace("num_steps=50", "num_steps=5")
    exec(compile(program, name, "exec"), {})
    if "save(" in program:
        with Image.open("samples.png") as picture:
            assert picture.size[0] > 100


@pytest.mark.parametrize(
    "objects",
    [
        pytest.param({"network": Mlp()}, marks=pytest.mark.slow, id="network"),
        pytest.param({"network": Mlp(), "loss": huber, "source": batches}, id="network-loss-source"),
    ],
)
def test_a_run_of_own_objects_is_resumed_bit_for_bit(objects, tmp_path):
    config = lambda steps: given_config(labels__num_classes=10, labels__dropout=0.1, train__num_steps=steps)
    whole = dj.train(config(6), tmp_path / "whole", **objects)
    dj.train(config(3), tmp_path / "parts", **objects)
    assert same(dj.train(config(6), tmp_path / "parts", **objects), whole)
    losses = [[line["loss"] for line in read_log(tmp_path / name)] for name in ("whole", "parts")]
    assert losses[0] == losses[1]
    assert ("largest" in read_log(tmp_path / "whole")[0]) == ("loss" in objects)
    run = dj.Run(tmp_path / "whole", network=Mlp())
    assert run.sample(4, num_steps=3).shape == (4, 8, 8, 1)


@pytest.mark.parametrize("name", ["network", pytest.param("loss", marks=pytest.mark.slow), "source"])
def test_a_run_of_own_objects_names_what_is_missing(name, tmp_path):
    given = {"network": Mlp(), "loss": huber, "source": batches}
    config = given_config(train__num_steps=2)
    dj.train(config, tmp_path, **{"network": Mlp(), name: given[name]})
    config.train.num_steps = 3
    if name == "loss":  # which may change
        dj.train(config, tmp_path, network=Mlp())
    else:
        with pytest.raises(
            UserError, match=rf"was trained with a {name} from a program: resume it with .*{name}=\.\.\."
        ):
            dj.train(config, tmp_path, **({} if name == "network" else {"network": Mlp()}))
    if name == "network":
        with pytest.raises(UserError, match=r"config.network is 'custom': this run needs .* given as network="):
            dj.Run(tmp_path)
    elif name == "source":
        with pytest.raises(UserError, match=r"config.data.source is 'custom': .* given as source="):
            dj.Run(tmp_path, network=Mlp()).source()
    else:
        save(tmp_path / "configured", tiny_config())
        with pytest.raises(UserError, match=r"network= is given, and config.network is 'configured'"):
            dj.Run(tmp_path / "configured", network=Mlp())


def test_arrays_are_a_source_with_their_classes(tmp_path):
    images = np.random.default_rng(0).integers(256, size=(20, 8, 8), dtype=np.uint8)
    source = dj.ArrayImages(images, np.arange(20) % 2, class_names=("cat", "dog"))
    assert (len(source), source.num_classes, source[3]["image"].shape) == (20, 2, (8, 8, 1))
    np.testing.assert_array_equal(source[3]["image"][..., 0], images[3])
    assert source[3]["label"] == 1
    dj.train(given_config(labels__num_classes=2, train__num_steps=2), tmp_path, source=source, network=Mlp())
    run = dj.Run(tmp_path, network=Mlp())
    assert run.class_names == ("cat", "dog")
    assert "bpd" in dj.evaluate(run, ["bpd"], source=source, num_images=4)
    assert dj.ArrayImages(images).num_classes == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((2, 8, 8, 1)),), r"^images must be uint8 \[N, H, W, C\], got float64 \[2, 8, 8, 1\]"),
        ((np.zeros((2, 8), np.uint8),), r"^images must be uint8"),
        ((np.zeros((2, 8, 8), np.uint8), [0]), "^labels must be 2 integers of 0 or above"),
        ((np.zeros((2, 8, 8), np.uint8), [0.5, 1]), "^labels must be 2 integers"),
        ((np.zeros((2, 8, 8), np.uint8), [0, -1]), "^labels must be 2 integers"),
        (([[1], [1, 2]],), "^images must have one shape, so that they form an array: "),
        ((np.zeros((2, 8, 8), np.uint8), [[0], [0, 1]]), "^labels must have one shape, so that they form an array: "),
    ],
)
def test_other_arrays_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        dj.ArrayImages(*arguments)
    with pytest.raises(UserError, match=r"^there are 1 class names, and a label is 1$"):
        dj.ArrayImages(np.zeros((2, 8, 8), np.uint8), [0, 1], class_names=("cat",))


def one_batch(**changes):
    """Two examples, and no more."""
    return [{"image": np.zeros((8, 8, 8, 1), np.uint8), "label": np.zeros(8, int), **changes}]


def test_a_loader_may_reuse_its_memory():
    """On the CPU an array on the device may share the memory of the array of NumPy from which it is made."""
    memory = np.zeros((8, 8, 8, 1), np.uint8)
    given = inputs._as_arrays({"image": memory, "label": memory[:, 0, 0, 0]})
    assert not any(np.shares_memory(array, memory) for array in given.values())


def test_hooks_see_the_step_at_which_a_run_is_interrupted(tmp_path, monkeypatch):
    monkeypatch.setattr(loop.Interruption, "__call__", lambda self, step: step == 2)
    seen = []
    dj.train(given_config(), tmp_path, network=Mlp(), hooks=[lambda step, state, metrics: seen.append(step)])
    assert seen == [1, 2]


def test_the_network_of_an_unconditional_run_gets_no_labels(tmp_path):
    """The chain has none either: training with those of the data, and all 10 of them, is training with label 0."""
    losses = []
    for name, label in (("labels", np.arange(8)), ("none", np.zeros(8, int))):
        dj.train(given_config(train__num_steps=3), tmp_path / name, source=one_batch(label=label), network=Mlp())
        losses.append([line["loss"] for line in read_log(tmp_path / name)])
    assert losses[0] == losses[1]


def test_an_iterable_starts_again_when_it_ends(tmp_path):
    config = given_config(train__num_steps=5)
    assert dj.train(config, tmp_path, source=one_batch(), network=Mlp()).step == 5


def test_a_dataloader_of_torch_is_a_source(tmp_path):
    torch = pytest.importorskip("torch")
    images = torch.randint(256, (24, 8, 8, 1), dtype=torch.uint8)
    examples = [{"image": image, "label": i % 3} for i, image in enumerate(images)]
    loader = torch.utils.data.DataLoader(examples, batch_size=8, shuffle=True)
    assert dj.train(given_config(train__num_steps=5), tmp_path, source=loader, network=Mlp()).step == 5


def test_hooks_see_every_step_and_an_error_in_one_loses_nothing(tmp_path):
    seen = []

    def hook(step, state, metrics):
        seen.append((step, int(state.step), float(metrics["loss"])))
        if step == 5:
            raise ValueError("of a hook")

    with pytest.raises(ValueError, match="of a hook"):
        dj.train(given_config(checkpoint__every=100), tmp_path, hooks=[hook], network=Mlp())
    assert [step for step, *_ in seen] == [step for _, step, _ in seen] == [1, 2, 3, 4, 5]
    np.testing.assert_allclose([loss for *_, loss in seen], [line["loss"] for line in read_log(tmp_path)], rtol=1e-6)
    assert dj.train(given_config(), tmp_path, network=Mlp()).step == 8
    assert [line["step"] for line in read_log(tmp_path)] == list(range(1, 9))
