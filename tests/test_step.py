"""The train step against a step written out in NumPy, and each of its parts against what it promises."""

from dataclasses import FrozenInstanceError
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.tiny import random_state, tiny_config

from ddpm_jax import factory
from ddpm_jax.diffusion.arrays import image_keys, noise_like, stream
from ddpm_jax.diffusion.losses import l_simple
from ddpm_jax.diffusion.prediction import Target, as_denoiser
from ddpm_jax.diffusion.schedules import NoiseLevel, Transition, linear
from ddpm_jax.diffusion.time_sampling import TimeSampler, uniform
from ddpm_jax.errors import UserError
from ddpm_jax.runtime.devices import device_mesh, global_batch, replicated
from ddpm_jax.runtime.images import to_uint8
from ddpm_jax.training.state import initial_state
from ddpm_jax.training.step import Examples, TrainSpec, augment, draw_examples, mean_gradient, summarise, train_step

pytestmark = pytest.mark.usefixtures("quick_compilation")

T = 20
KEY = jax.random.key(3)
SCHEDULE = linear(T, beta_start=0.01, beta_end=0.2)
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (8, 4, 3, 2)).astype(np.uint8)
BATCH = {"image": IMAGES, "label": np.arange(8, dtype=np.int32)}


def network(params, x, index, label):
    """A linear map of the channels and a bias that grows with time."""
    del label
    return x @ params["kernel"] + params["bias"] * index[:, None, None, None]


def init_params(key):
    return {"kernel": 0.1 * jax.random.normal(key, (2, 2)), "bias": jnp.array([0.01, -0.02])}


def noise_error(params, examples, key):
    """L_simple of the linear network; dropout's key has no say."""
    del key
    denoise = as_denoiser(network, params, Target.EPS)
    return l_simple()(denoise, examples.x_0, examples.noise_keys, examples.transition)


def fixed(times, weight):
    """Draws the same times and weights whatever the state, and counts in it."""
    return TimeSampler(
        init=lambda: jnp.zeros((), jnp.int32),
        draw=lambda state, key, size: (jnp.asarray(times), jnp.asarray(weight)),
        update=lambda state, times, losses: state + 1,
    )


def spec(**changes):
    options = {"objective": noise_error, "times": uniform(T), "optimizer": optax.adam(0.1)}
    return TrainSpec(**{**options, "transitions": SCHEDULE.transitions(), **changes})


def test_a_spec_is_fixed_and_keeps_this_average_unless_told_otherwise():
    """In one part, without flips."""
    given = spec()
    assert (given.ema_decay, given.accumulation, given.random_flip) == (0.9999, 1, False)
    with pytest.raises(FrozenInstanceError):
        given.accumulation = 2


@pytest.mark.parametrize("compile", [lambda f: f, jax.jit])
def test_eight_bits_fill_minus_one_to_one_exactly_and_come_back(compile):
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    x_0 = np.asarray(compile(partial(augment, random_flip=False))(levels, image_keys(KEY, [0])))
    assert x_0.dtype == np.float32
    assert (x_0.min(), x_0.max()) == (-1, 1)
    np.testing.assert_allclose(x_0, levels / 127.5 - 1, atol=2e-7)
    np.testing.assert_array_equal(to_uint8(x_0), levels)


def test_flips_mirror_left_and_right_of_half_the_images():
    num = 1000
    images = RNG.integers(0, 256, (num, 2, 3, 1)).astype(np.uint8)
    keys = image_keys(KEY, np.arange(num))
    plain = np.asarray(augment(images, keys, random_flip=False))
    flipped = np.asarray(augment(images, keys, random_flip=True))
    mirrored = np.all(flipped == plain[:, :, ::-1], axis=(1, 2, 3))
    kept = np.all(flipped == plain, axis=(1, 2, 3))
    assert np.all(mirrored | kept)
    np.testing.assert_allclose(mirrored.mean(), 0.5, atol=4 * 0.5 / np.sqrt(num))


def test_the_flip_of_an_image_depends_on_its_own_key_alone():
    keys = image_keys(KEY, np.arange(8))
    whole = augment(IMAGES, keys, random_flip=True)
    some = np.array([5, 0, 6])
    np.testing.assert_array_equal(augment(IMAGES[some], keys[some], random_flip=True), whole[some])


def test_each_image_gets_the_move_and_the_weight_of_its_time():
    times, weight = np.array([1, T, 7, 2, 1, 13, T, 5]), np.arange(8.0)
    examples = draw_examples(spec(times=fixed(times, weight)), BATCH, KEY, times_state=0)
    now, before = examples.transition.now, examples.transition.next
    np.testing.assert_array_equal(now.t, times)
    np.testing.assert_array_equal(before.t, times - 1)
    np.testing.assert_allclose(examples.transition.beta, SCHEDULE.beta[times - 1], rtol=1e-6)
    np.testing.assert_allclose(now.signal, np.sqrt(SCHEDULE.alpha_bar[times]), rtol=1e-6)
    np.testing.assert_allclose(before.sigma, np.sqrt(1 - SCHEDULE.alpha_bar[times - 1]), rtol=1e-6)
    large = SCHEDULE.transitions().log_var_large[T - times]
    np.testing.assert_allclose(examples.transition.log_var_large, large, rtol=1e-6)
    np.testing.assert_array_equal(examples.weight, weight)
    np.testing.assert_array_equal(examples.label, BATCH["label"])
    np.testing.assert_allclose(examples.x_0, IMAGES / 127.5 - 1, atol=2e-7)


def test_times_are_drawn_from_their_state_with_a_stream_of_their_own():
    asked = []

    def draw(state, key, size):
        asked.append((state, key, size))
        return jnp.ones(size, int), jnp.ones(size)

    draw_examples(spec(times=TimeSampler(None, draw, None)), BATCH, KEY, times_state="memory")
    assert asked == [("memory", stream(KEY, "times"), 8)]


def test_every_image_has_its_own_keys_in_streams_of_their_own():
    examples = draw_examples(spec(), BATCH, KEY, times_state=())
    root = image_keys(stream(KEY, "images"), np.arange(8))
    assert jnp.all(examples.noise_keys == stream(root, "noise"))
    assert jnp.all(examples.label_keys == stream(root, "label"))
    keys = jnp.concatenate([root, examples.noise_keys, examples.label_keys])
    assert len(np.unique(jax.random.key_data(keys), axis=0)) == 24


def examples_at(times, weight=1.0):
    """Examples of which only time, label and weight count."""
    t = jnp.asarray(times, jnp.float32)
    level, num = NoiseLevel(t, t, t), len(t)
    keys = image_keys(KEY, np.arange(num))
    return Examples(
        x_0=jnp.zeros((num, 1, 1, 1)),
        label=jnp.arange(num),
        noise_keys=keys,
        label_keys=keys,
        transition=Transition(level, level, t, t, t, t),
        weight=jnp.broadcast_to(weight, t.shape),
    )


def test_every_term_is_summed_by_quarter_of_the_times():
    times = np.array([1, 250, 251, 500, 501, 750, 751, 1000, 1000])
    terms = {"loss": jnp.asarray(2.0 ** np.arange(9)), "accuracy": jnp.ones(9)}
    metrics = summarise(terms, {}, examples_at(times), num_timesteps=1000)
    np.testing.assert_array_equal(metrics["quarter_sums"]["loss"], [1 + 2, 4 + 8, 16 + 32, 64 + 128 + 256])
    np.testing.assert_array_equal(metrics["quarter_sums"]["accuracy"], [2, 2, 2, 3])
    np.testing.assert_array_equal(metrics["quarter_count"], [2, 2, 2, 3])


@pytest.mark.parametrize("num_timesteps", [1, 3, 10, 4000])
def test_quarters_hold_every_time_once_and_in_order(num_timesteps):
    times = np.arange(1, num_timesteps + 1)
    metrics = summarise({"loss": jnp.ones(num_timesteps)}, {}, examples_at(times), num_timesteps=num_timesteps)
    expected = np.bincount([4 * (t - 1) // num_timesteps for t in range(1, num_timesteps + 1)], minlength=4)
    np.testing.assert_array_equal(metrics["quarter_count"], expected)


def test_metrics_are_weighted_means_of_every_term():
    weight, loss = np.array([0.5, 2.0, 0.0]), np.array([1.0, 3.0, 50.0])
    terms = {"loss": jnp.asarray(loss), "eps_mse": jnp.asarray(3 * loss)}
    metrics = summarise(terms, {}, examples_at([1, 2, 3], weight), num_timesteps=10)
    np.testing.assert_allclose([metrics["loss"], metrics["eps_mse"]], [6.5 / 3, 6.5], rtol=1e-6)


def test_the_gradient_norm_is_over_all_parameters():
    grads = {"a": jnp.array([3.0, 0.0]), "b": {"c": jnp.array([[4.0], [12.0]])}}
    assert summarise({"loss": jnp.ones(1)}, grads, examples_at([1]), num_timesteps=10)["grad_norm"] == 13


class ByHand:
    """Algorithm 1, Adam behind a clip by global norm, and the average of the parameters, in NumPy float64."""

    def __init__(self, params, *, learning_rate, clip, ema_decay):
        self.params = {name: np.float64(leaf) for name, leaf in params.items()}
        self.ema = dict(self.params)
        self.first = dict.fromkeys(params, 0.0)
        self.second = dict.fromkeys(params, 0.0)
        self.learning_rate, self.clip, self.ema_decay, self.step = learning_rate, clip, ema_decay, 0

    def take(self, batch, root):
        """One step; returns the loss and the norm of the gradient."""
        key = jax.random.fold_in(root, self.step)
        size = len(batch["image"])
        keys = image_keys(stream(key, "images"), np.arange(size))
        times = np.asarray(jax.random.randint(stream(key, "times"), (size,), 1, T + 1))
        x_0 = np.asarray(augment(batch["image"], stream(keys, "flip"), random_flip=True), np.float64)
        eps = np.asarray(noise_like(stream(keys, "noise"), jnp.zeros(x_0.shape, jnp.float32)), np.float64)
        alpha_bar = SCHEDULE.alpha_bar[times][:, None, None, None]
        x_t = np.sqrt(alpha_bar) * x_0 + np.sqrt(1 - alpha_bar) * eps
        index = (times - 1.0)[:, None, None, None]
        error = x_t @ self.params["kernel"] + self.params["bias"] * index - eps
        grads = {
            "kernel": 2 * np.einsum("bhwi,bhwo->io", x_t, error) / error.size,
            "bias": 2 * np.sum(error * index, (0, 1, 2)) / error.size,
        }
        norm = np.sqrt(sum(np.sum(grad**2) for grad in grads.values()))
        self.step += 1
        decay = min(self.ema_decay, (1 + self.step) / (10 + self.step))
        for name, grad in grads.items():
            grad = grad * min(1, self.clip / norm)
            self.first[name] = 0.9 * self.first[name] + 0.1 * grad
            self.second[name] = 0.999 * self.second[name] + 0.001 * grad**2
            mean, square = self.first[name] / (1 - 0.9**self.step), self.second[name] / (1 - 0.999**self.step)
            self.params[name] = self.params[name] - self.learning_rate * mean / (np.sqrt(square) + 1e-8)
            self.ema[name] = decay * self.ema[name] + (1 - decay) * self.params[name]
        return np.mean(error**2), norm


def test_steps_are_those_written_by_hand(x64):
    learning_rate, clip = 0.05, 0.3
    optimizer = optax.chain(optax.clip_by_global_norm(clip), optax.adam(learning_rate))
    ours = spec(optimizer=optimizer, ema_decay=0.25, random_flip=True)
    state = initial_state(jax.random.key(0), init_params, optimizer=optimizer, times=ours.times)
    hand = ByHand(state.params, learning_rate=learning_rate, clip=clip, ema_decay=0.25)
    take = jax.jit(partial(train_step, ours))
    norms = []
    for step in range(4):
        batch = {"image": np.roll(IMAGES, step, 0), "label": BATCH["label"]}
        loss, norm = hand.take(batch, state.key)
        state, metrics = take(state, batch)
        np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
        np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-6)
        assert state.step == step + 1
        for name in hand.params:
            np.testing.assert_allclose(state.params[name], hand.params[name], rtol=1e-6)
            np.testing.assert_allclose(state.ema_params[name], hand.ema[name], rtol=1e-6)
        norms.append(norm)
    assert min(norms) > clip  # the clip was at work


def test_a_step_is_a_function_of_the_state_and_draws_anew_at_the_next():
    ours = spec(optimizer=optax.sgd(0.0))
    state = initial_state(jax.random.key(0), init_params, optimizer=ours.optimizer, times=ours.times)
    take = jax.jit(partial(train_step, ours))
    one, metrics = take(state, BATCH)
    again, same = take(state, BATCH)
    _, other = take(one, BATCH)
    jax.tree.map(np.testing.assert_array_equal, metrics, same)
    assert one.key == again.key == state.key
    assert metrics["loss"] != other["loss"]


def test_a_batch_in_parts_has_the_gradient_of_the_whole(x64):
    params = init_params(KEY)
    examples = draw_examples(spec(times=fixed(1 + np.arange(8), np.arange(8.0))), BATCH, KEY, times_state=0)
    in_parts = lambda parts: jax.jit(partial(mean_gradient, spec(accumulation=parts)))(params, examples, KEY)
    whole, terms = in_parts(1)
    for parts in (2, 4):
        grads, same_terms = in_parts(parts)
        for name in params:
            np.testing.assert_allclose(grads[name], whole[name], rtol=1e-12)
        for name in terms:
            np.testing.assert_allclose(same_terms[name], terms[name], rtol=1e-12)


def test_every_part_has_a_dropout_key_of_its_own():
    """Part i takes images i, i + parts, ... with `fold_in(key, i)`; the terms come back in the batch's order."""

    def drawn(params, examples, key):
        return {"loss": params * (10.0 * examples.label + jax.random.uniform(key))}

    examples = examples_at(np.ones(8))
    for parts in (2, 4):
        _, terms = mean_gradient(spec(objective=drawn, accumulation=parts), jnp.ones(()), examples, KEY)
        coins = [jax.random.uniform(jax.random.fold_in(KEY, i)) for i in range(parts)]
        np.testing.assert_allclose(terms["loss"], [10 * i + coins[i % parts] for i in range(8)], rtol=1e-6)


def test_the_gradient_is_that_of_the_weighted_mean():
    weight, slope = np.array([0.5, 2.0, 0.0, 1.0]), np.array([1.0, 3.0, 50.0, 7.0])
    objective = lambda params, examples, key: {"loss": params * jnp.asarray(slope)}
    gradient, terms = mean_gradient(spec(objective=objective), jnp.ones(()), examples_at([1] * 4, weight), KEY)
    np.testing.assert_allclose(gradient, np.mean(weight * slope), rtol=1e-6)
    np.testing.assert_array_equal(terms["loss"], slope)


def scalar_step(**changes):
    """A spec for one number, and a state of it at step 5."""
    ours = spec(optimizer=optax.sgd(0.1), **changes)
    state = initial_state(jax.random.key(0), lambda key: jnp.ones(()), optimizer=ours.optimizer, times=ours.times)
    return ours, state.replace(step=jnp.array(5))


def test_dropout_has_the_stream_of_its_step():
    seen = []

    def objective(params, examples, key):
        seen.append(key)
        return {"loss": params * jnp.ones(8)}

    ours, state = scalar_step(objective=objective)
    train_step(ours, state, BATCH)
    assert seen == [stream(jax.random.fold_in(state.key, 5), "dropout")]


def test_the_draw_of_times_learns_the_times_and_the_unweighted_losses():
    seen = []

    def update(state, times, losses):
        seen.append((state, times, losses))
        return state + 1

    times, loss = 1 + np.arange(8), 10.0 * np.arange(8)
    ours, state = scalar_step(
        times=fixed(times, 0.5 * np.ones(8))._replace(update=update),
        objective=lambda params, examples, key: {"loss": params * jnp.asarray(loss)},
    )
    state, _ = train_step(ours, state, BATCH)
    ((before, seen_times, seen_losses),) = seen
    assert (before, state.times) == (0, 1)
    np.testing.assert_array_equal(seen_times, times)
    np.testing.assert_array_equal(seen_losses, loss)


def test_a_batch_cut_over_eight_devices_takes_the_same_step(x64):
    ours = spec(random_flip=True, optimizer=optax.sgd(0.1))
    state = initial_state(jax.random.key(0), init_params, optimizer=ours.optimizer, times=ours.times)
    mesh = device_mesh()
    assert mesh.size == 8
    split_state = jax.device_put(state, replicated(mesh))
    take = jax.jit(partial(train_step, ours))
    one, metrics = take(state, BATCH)
    many, split_metrics = take(split_state, global_batch(mesh, BATCH))
    for left, right in zip(*map(jax.tree.leaves, (split_metrics, metrics)), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-12)
    for name in one.params:
        np.testing.assert_allclose(many.params[name], one.params[name], rtol=1e-12)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            {**BATCH, "image": IMAGES / np.float32(127.5) - 1},
            "must be uint8 in 0..255, not float32: .*with ddpm_jax.to_uint8",
        ),
        ({**BATCH, "image": IMAGES.astype(np.int32)}, "must be uint8 in 0..255, not int32"),
        ({"image": IMAGES}, r"'label' is missing \(keys image\); images without classes have the label 0"),
        ({"label": BATCH["label"]}, r"'image' is missing \(keys label\)"),
        ({}, r"'image' and 'label' is missing \(keys none\)"),
        (IMAGES, r"'image' and 'label' is missing \((ndarray|DynamicJaxprTracer)\)"),
        ({**BATCH, "image": IMAGES[..., 0]}, r"shape \[8, 4, 3\], and its labels the shape \[8\]"),
        ({**BATCH, "label": BATCH["label"][:7]}, r"shape \[8, 4, 3, 2\], and its labels the shape \[7\]"),
        ({**BATCH, "label": BATCH["label"][:, None]}, r"its labels the shape \[8, 1\]"),
        (
            {**BATCH, "image": IMAGES.tolist()},
            "with arrays, and its 'image' is of the type list: convert it with numpy",
        ),
        ({**BATCH, "label": BATCH["label"].tolist()}, "its 'label' is of the type list"),
        ({**BATCH, "label": None}, "its 'label' is of the type NoneType"),
        ({**BATCH, "label": np.zeros(8, np.float32)}, r"its labels the shape \[8\] and the type float32"),
    ],
)
@pytest.mark.parametrize("compile", [lambda f: f, jax.jit])
def test_a_batch_of_another_form_is_refused_before_anything_is_computed(batch, message, compile):
    ours = spec()
    state = initial_state(KEY, init_params=init_params, optimizer=ours.optimizer, times=ours.times)
    with pytest.raises(UserError, match=message):
        compile(partial(train_step, ours))(state, batch)


def test_images_with_other_channels_than_the_networks_are_refused_in_one_line():
    config = tiny_config()
    ours = factory.train_spec(config, factory.network(config), num_images=8)
    batch = {"image": np.zeros((8, 8, 8, 3), np.uint8), "label": np.zeros(8, np.int32)}
    with pytest.raises(UserError, match=r"images of shape \[8, 8, 3\] do not fit the network's parameters: .*conv_in"):
        jax.eval_shape(partial(train_step, ours), random_state(config), batch)
