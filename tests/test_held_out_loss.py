"""The loss on held-out images: always the same examples, the averaged parameters, and a run that it does not change."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tiny import random_state, same, tiny_config, untimed

import ddpm_jax as dj
from ddpm_jax import factory
from ddpm_jax.diffusion.arrays import image_keys, noise_like, stream
from ddpm_jax.evaluation import plots
from ddpm_jax.jobs import train
from ddpm_jax.jobs.held_out import HeldOutLoss, draw_fixed, held_out_loss
from ddpm_jax.runtime.devices import device_mesh
from ddpm_jax.training.log import read_log

pytestmark = pytest.mark.usefixtures("quick_compilation")

T = 20
RNG = np.random.default_rng(0)
SOURCE = dj.ArrayImages(RNG.integers(256, size=(100, 8, 8, 1), dtype=np.uint8))
TRANSITIONS = dj.schedules.linear(T, beta_start=0.01, beta_end=0.2).transitions()
KEY = jax.random.key(5)


def batch(index):
    images = np.stack([SOURCE[i % 100]["image"] for i in index])
    return {"image": images, "label": np.zeros(len(index), np.int32), "index": np.asarray(index, np.int32)}


def test_an_example_depends_on_the_key_and_its_number_alone():
    whole, part = draw_fixed(TRANSITIONS, batch(range(64)), KEY), draw_fixed(TRANSITIONS, batch([7, 40, 3]), KEY)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(part), strict=True):
        assert same(one[np.array([7, 40, 3])], other)
    other = draw_fixed(TRANSITIONS, batch(range(64)), jax.random.key(6))
    assert not np.array_equal(other.transition.now.t, whole.transition.now.t)
    keys = whole.noise_keys
    assert len(np.unique(jax.random.key_data(keys), axis=0)) == 64


@pytest.mark.parametrize("num_timesteps", [1, 2, 20, 1000])
def test_every_quarter_of_t_has_as_many_examples_and_every_time_its_share(num_timesteps):
    transitions = dj.schedules.cosine(num_timesteps).transitions()
    index = np.arange(40_000)
    images = np.zeros((len(index), 1, 1, 1), np.uint8)
    drawn = draw_fixed(transitions, {"image": images, "label": index, "index": index}, KEY)
    t = np.asarray(drawn.transition.now.t)
    assert (t.min(), t.max()) == (1, num_timesteps)
    if num_timesteps >= 4:
        np.testing.assert_array_equal(np.bincount((4 * (t - 1).astype(int)) // num_timesteps), [10_000] * 4)
    counts, expected = np.bincount(t.astype(int), minlength=num_timesteps + 1)[1:], len(t) / num_timesteps
    assert np.all(np.abs(counts - expected) <= 5 * np.sqrt(expected))


def brightness(params, examples, key):
    """Two terms that show the parameters, the images and the times."""
    light = jnp.mean(examples.x_0, axis=(1, 2, 3))
    return {"loss": params["factor"] * light, "time": jnp.asarray(examples.transition.now.t, jnp.float32)}


@pytest.mark.parametrize(("batch_size", "accumulation"), [(8, 1), (256, 1), (32, 2), (24, 1)])
def test_the_numbers_are_the_means_over_the_examples(batch_size, accumulation):
    config = tiny_config(
        data__held_out=0.5,
        log__held_out_every=10,
        train__batch_size=batch_size,
        train__accumulation=accumulation,
        seed=5,
    )
    measure = HeldOutLoss(config, brightness, SOURCE, device_mesh())
    state = random_state(tiny_config()).replace(ema_params={"factor": jnp.float32(3)}, params={"factor": jnp.nan})
    found = measure(10, state)
    size = batch_size // accumulation
    index = np.arange(-(-256 // size) * size)
    transitions = factory.noise_schedule(config).transitions()
    drawn = draw_fixed(transitions, batch(index), stream(jax.random.key(5), "held_out"))
    light, t = np.mean(drawn.x_0, axis=(1, 2, 3), dtype=np.float64), np.asarray(drawn.transition.now.t)
    quarter = (4 * (t - 1)).astype(int) // T
    expected = {"held_out_loss": 3 * light.mean(), "held_out_time": t.mean()}
    for i in range(4):
        expected[f"held_out_loss_t{i + 1}"] = 3 * light[quarter == i].mean()
        expected[f"held_out_time_t{i + 1}"] = t[quarter == i].mean()
    assert found == pytest.approx(expected, rel=1e-5)
    assert measure(10, state) == found


def test_it_is_due_at_the_first_regular_line_after_each_multiple():
    config = tiny_config(data__held_out=0.5, log__held_out_every=25, log__every=10)
    measure = HeldOutLoss(config, brightness, SOURCE, device_mesh())
    state = random_state(tiny_config()).replace(ema_params={"factor": jnp.float32(3)})
    assert [step for step in range(10, 110, 10) if measure(step, state)] == [30, 50, 80, 100]


def test_the_images_are_spread_over_the_source_and_each_is_taken_as_often():
    for num, expected in ((100, np.arange(256) % 100), (512, 2 * np.arange(256))):
        marked = np.arange(num)
        images = np.stack([marked % 256, marked // 256], axis=-1).astype(np.uint8)[:, None, None, :]
        measure = HeldOutLoss(tiny_config(train__batch_size=64), brightness, dj.ArrayImages(images), device_mesh())
        shown = np.concatenate([np.asarray(part["image"], int)[:, 0, 0] for part in measure._batches])
        np.testing.assert_array_equal(shown @ [1, 256], expected)


def test_nothing_is_measured_without_held_out_images_or_when_it_is_switched_off():
    config, mesh = tiny_config(data__held_out=0.5), device_mesh()
    given = {"num_images": 10, "loss": None}
    model = factory.network(config)
    assert held_out_loss(config, model, None, mesh, **given) == []
    assert len(held_out_loss(config, model, SOURCE, mesh, **given)) == 1
    config.log.held_out_every = 0
    assert held_out_loss(config, model, SOURCE, mesh, **given) == []


RUN = {
    "data__held_out": 0.1,
    "log__held_out_every": 2,
    "model__dropout": 0.5,
    "train__num_steps": 4,
    "data__random_flip": True,
    "diffusion__num_timesteps": 4,
    "optim__warmup_steps": 0,
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory, quick_compilation):
    workdir = tmp_path_factory.mktemp("measured")
    return workdir, train.train(tiny_config(**RUN), workdir)


def test_the_log_has_the_loss_of_the_averaged_parameters_without_dropout(measured):
    workdir, state = measured
    lines = read_log(workdir)
    names = {"held_out_loss", *(f"held_out_loss_t{i}" for i in range(1, 5))}
    assert [line.keys() & names for line in lines] == [set(), names, set(), names]
    config = tiny_config(**RUN)
    source, model = factory.of_split(config, "held_out"), factory.network(config)
    index = np.arange(256)
    images, _ = dj.load(source)
    x_0 = images[index % len(source)]
    keys = image_keys(stream(jax.random.key(0), "held_out"), index)
    schedule = factory.noise_schedule(config)
    t = 1 + index % 4  # T = 4: each quarter is one time
    level = schedule.level(t)
    eps = noise_like(stream(keys, "noise"), x_0)
    column = lambda values: np.asarray(values, np.float32)[:, None, None, None]
    x_t = column(level.signal) * x_0 + column(level.sigma) * eps
    out = model.apply({"params": state.ema_params}, x_t, jnp.asarray(t - 1.0), jnp.zeros(256, int))
    error = np.mean((np.asarray(out) - np.asarray(eps)) ** 2, axis=(1, 2, 3))
    assert lines[-1]["held_out_loss"] == pytest.approx(error.mean(), rel=1e-4)
    assert lines[-1]["held_out_loss_t2"] == pytest.approx(error[t == 2].mean(), rel=1e-4)


@pytest.mark.slow
def test_the_run_itself_is_the_same_without_the_measurement(measured, tmp_path):
    state = train.train(tiny_config(**RUN | {"log__held_out_every": 0}), tmp_path)
    assert same(state, measured[1])
    plain = [{key: v for key, v in line.items() if "held_out" not in key} for line in untimed(measured[0])]
    assert plain == untimed(tmp_path)


@pytest.mark.slow
def test_a_resumed_run_measures_the_same(measured, tmp_path):
    train.train(tiny_config(**RUN | {"train__num_steps": 3}), tmp_path)
    train.train(tiny_config(**RUN), tmp_path)
    assert untimed(tmp_path)[1::2] == untimed(measured[0])[1::2]


@pytest.mark.slow
def test_terms_of_a_classifier_and_of_a_posterior_are_measured_too(tmp_path):
    options = {"task": "classify", "labels__num_classes": 10, "data__held_out": 0.1, "train__num_steps": 1}
    options |= {"posterior__weights": "last", "posterior__samples_per_step": 2, "log__held_out_every": 1}
    train.train(tiny_config(**options), tmp_path)
    (line,) = read_log(tmp_path)
    assert {"held_out_loss", "held_out_accuracy", "held_out_accuracy_t4", "held_out_kl"} <= line.keys()
    assert 0 <= line["held_out_accuracy"] <= 1
    json.dumps(line, allow_nan=False)


def test_the_plot_of_the_loss_shows_it_where_it_was_measured(measured):
    (panel,) = plots.loss(read_log(measured[0])).axes
    shown = {line.get_label(): line.get_xdata() for line in panel.lines}
    assert list(shown["held out, all t"]) == [2, 4]


def test_the_objective_without_dropout_is_not_random():
    config = tiny_config(model__dropout=0.5)
    model = factory.network(config)
    params = random_state(config).params
    drawn = draw_fixed(factory.noise_schedule(config).transitions(), batch(range(8)), KEY)
    values = {}
    for trained in (True, False):
        objective = factory.objective(config, model, num_images=1, train=trained)
        values[trained] = [objective(params, drawn, jax.random.key(seed))["loss"] for seed in (0, 1)]
    assert not np.array_equal(*values[True])
    np.testing.assert_array_equal(*values[False])
