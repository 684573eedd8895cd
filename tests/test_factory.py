"""From a configuration to objects: every name means its function, every number arrives, every mistake names its key."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.analytic import GAUSSIAN, keys, normal, pick
from support.networks import shapes

from ddpm_jax import factory
from ddpm_jax.config import GROUPS, experiment, from_json, to_json
from ddpm_jax.convert.schedulers import TARGET, VARIANCE
from ddpm_jax.diffusion import losses, samplers, schedules, time_sampling, timesteps
from ddpm_jax.diffusion.prediction import Target
from ddpm_jax.errors import UserError
from ddpm_jax.training.step import Examples


def changed(name="base", **changes):
    """A configuration with some keys changed, written `section__key=value`."""
    config = experiment(name)
    with config.unlocked():
        for path, value in changes.items():
            section, key = path.split("__")
            config[section][key] = value
    return config.lock()


def refused(make, message, **changes):
    """Checks that a changed configuration is refused with one line."""
    with pytest.raises(UserError, match=message) as error:
        make(changed(**changes))
    assert "\n" not in str(error.value)


def test_every_schedule_is_made_with_the_configured_length_and_ends():
    made = {
        "linear": schedules.linear(50, beta_start=0.001, beta_end=0.03),
        "quadratic": schedules.quadratic(50, beta_start=0.001, beta_end=0.03),
        "sigmoid": schedules.sigmoid(50, beta_start=0.001, beta_end=0.03),
        "cosine": schedules.cosine(50),
        "log_snr": schedules.log_snr(50, first=7.0, last=-6.0),
        "straight": schedules.straight(50),
    }
    assert made.keys() == factory.SCHEDULES.keys()
    for name, expected in made.items():
        numbers = {"diffusion__num_timesteps": 50, "diffusion__beta_start": 0.001, "diffusion__beta_end": 0.03}
        numbers |= {"diffusion__log_snr_first": 7.0, "diffusion__log_snr_last": -6.0}
        ours = factory.noise_schedule(changed(diffusion__schedule=name, **numbers))
        np.testing.assert_array_equal(ours.alpha_bar, expected.alpha_bar)


def test_a_schedule_that_cannot_be_is_refused():
    refused(
        factory.noise_schedule,
        "config.diffusion.schedule='linaer' is not one of: linear, ",
        diffusion__schedule="linaer",
    )
    refused(
        factory.noise_schedule, "config.diffusion does not define a valid noise schedule: ", diffusion__beta_end=1.5
    )


def test_every_option_reaches_the_network_and_survives_json():
    options = {
        "channels": 64,
        "channel_mult": (1, 3),
        "num_res_blocks": 1,
        "attention_resolutions": (16, 8),
        "num_heads": 2,
        "head_channels": 16,
        "dropout": 0.25,
        "scale_shift_norm": True,
        "resample_in_block": True,
        "padding": "symmetric",
        "time_embedding": "cos_sin",
        "time_scale": 250.0,
        "time_offset": 1.0,
        "norm_groups": 16,
        "norm_epsilon": 1e-5,
        "dtype": "bfloat16",
        "remat": True,
    }
    config = changed(**{f"model__{key}": value for key, value in options.items()})
    assert options.keys() == set(config.model.keys())
    for stored in (config, from_json(to_json(config))):
        arch = factory.network(stored).arch
        assert {key: getattr(arch, key) for key in options} == options
        hash(arch)


@pytest.mark.parametrize(("channels", "learned", "out"), [(3, False, 3), (1, False, 1), (3, True, 6), (1, True, 2)])
def test_the_network_has_the_channels_of_the_images_twice_with_a_variance(channels, learned, out):
    config = changed("digits", data__channels=channels, diffusion__learned_variance=learned)
    model = factory.network(config)
    params = jax.eval_shape(factory.initial_params(config, model), jax.random.key(0))
    assert params["encoder"]["conv_in"]["kernel"].shape[2] == channels
    assert params["conv_out"]["kernel"].shape[3] == out
    assert params == shapes(model, np.zeros((2, 8, 8, channels), np.float32), np.zeros(2, np.float32))


def test_networks_that_do_not_fit_are_refused():
    refused(
        factory.network, "config.data.image_size=36 cannot be halved 3 times, .* multiple of 8 ", data__image_size=36
    )
    refused(factory.network, "width of 48 channels .* config.model.norm_groups=32", model__channels=48)
    refused(factory.network, r"width of 256 channels .* attention heads \(3\)", model__num_heads=3)
    refused(factory.network, r"width of 256 channels .* attention heads \(48\)", model__head_channels=48)
    factory.network(changed(model__channels=96, model__head_channels=64))  # no attention at the width of 96
    refused(factory.network, "config.model.dtype='float16' is not one of: float32, bfloat16", model__dtype="float16")
    refused(factory.network, "config.model: padding must be 'same' or 'symmetric'", model__padding="valid")


@pytest.fixture
def network():
    """A network that says `scale` times its input, twice for a variance head, and remembers how it was called."""

    def apply(variables, x, index, label=None, **options):
        calls.append({"params": variables["params"], "index": index, "label": label, **options})
        return variables["params"] * x

    calls = []
    return SimpleNamespace(apply=apply, calls=calls)


unclipped = partial(changed, sample__clip_x_0=False)
LEVEL = schedules.linear(1000).level(np.array([1.0, 400.0]))
X_T = normal(2, 4, 4, 1).astype(np.float32)


@pytest.mark.parametrize("target", ["eps", "x_0", "v"])
def test_the_denoiser_reads_the_network_as_its_target_at_the_time_before(network, target):
    denoise = factory.denoiser(unclipped(diffusion__target=target), network)(0.5, np.array([3, 4]))
    expected = Target(target).prediction(0.5 * X_T, X_T, LEVEL)
    prediction = denoise(X_T, LEVEL)
    np.testing.assert_allclose(prediction.x_0, expected.x_0, rtol=1e-5)
    np.testing.assert_allclose(prediction.eps, expected.eps, rtol=1e-5)
    (call,) = network.calls
    np.testing.assert_array_equal(call["index"], [0, 399])
    np.testing.assert_array_equal(call["label"], [3, 4])
    assert "train" not in call


@pytest.mark.parametrize("clipped", [True, False])
def test_estimates_are_clipped_as_configured(network, clipped):
    denoise = factory.denoiser(changed(sample__clip_x_0=clipped, diffusion__target="x_0"), network)(5.0)
    expected = np.clip(5 * X_T, -1, 1) if clipped else 5 * X_T
    np.testing.assert_allclose(denoise(X_T, LEVEL).x_0, expected, rtol=1e-6)


TRANSITION = pick(schedules.linear(1000).transitions(), np.array([999, 600]))
EXAMPLES = Examples(np.tanh(X_T), np.array([0, 1]), keys(2), keys(2), TRANSITION, np.ones(2))
MADE_LOSSES = {
    ("simple", "eps"): losses.l_simple(),
    ("simple", "x_0"): losses.l_simple(losses.x_0_weight),
    ("simple", "v"): losses.l_simple(losses.v_weight),
    ("simple", "min_snr"): losses.l_simple(losses.min_snr_weight(5.0)),
    ("simple", "p2"): losses.l_simple(losses.p2_weight(1.0)),
    ("simple", "flow"): losses.l_simple(losses.flow_weight),
    ("simple", "edm"): losses.l_simple(losses.edm_weight(0.5)),
    ("simple", "sigmoid"): losses.l_simple(losses.sigmoid_weight(-1.0)),
    ("hybrid", "v"): losses.l_hybrid(1000, weight=losses.v_weight, vlb_weight=0.3),
    ("vlb", "eps"): losses.l_vlb(1000),
}


@pytest.mark.parametrize(("kind", "weight"), MADE_LOSSES)
def test_every_loss_is_its_function_of_the_unclipped_network(network, kind, weight):
    assert {k for k, _ in MADE_LOSSES} == factory.LOSSES.keys()
    assert {w for _, w in MADE_LOSSES} == factory.WEIGHTS.keys()
    learned = kind != "simple"
    if learned:
        one = network.apply
        network.apply = lambda *args, **options: jnp.concatenate([one(*args, **options), jnp.sin(args[1])], -1)
    changes = {"loss__kind": kind, "loss__weight": weight, "loss__vlb_weight": 0.3}
    config = unclipped(diffusion__learned_variance=learned, **changes)
    key = jax.random.key(4)
    terms = factory.objective(config, network, num_images=100)(3.0, EXAMPLES, key)
    assert network.calls[0]["train"] is True
    assert network.calls[0]["rngs"] == {"dropout": key}
    denoise = factory.denoiser(config, network)(3.0)
    expected = MADE_LOSSES[kind, weight](denoise, EXAMPLES.x_0, EXAMPLES.noise_keys, TRANSITION)
    assert terms.keys() == expected.keys()
    for name in terms:
        np.testing.assert_allclose(terms[name], expected[name], rtol=1e-6)


TO_NOISE = {"diffusion__schedule": "straight"}


def test_what_needs_signal_is_refused_with_a_schedule_that_ends_in_noise():
    network, classifier = SimpleNamespace(apply=print), lambda params: print
    unguided = lambda config: factory.denoiser(config, network)
    refused(unguided, "target=eps says nothing of the image at t = T", **TO_NOISE)
    v = {**TO_NOISE, "diffusion__target": "v"}
    for name in ("euler_maruyama", "langevin"):
        refused(factory.sampler, f"sampler={name} needs a schedule with some signal", sample__sampler=name, **v)
    refused(lambda config: factory.denoiser(config, network, classifier=classifier), "choose classifier_on=mean", **v)
    factory.denoiser(changed(sample__classifier_on="mean", **v), network, classifier=classifier)


def test_a_variance_is_not_learned_with_a_schedule_that_ends_in_noise():
    make = lambda config: factory.objective(config, SimpleNamespace(apply=print), num_images=100)
    settings = {**TO_NOISE, "diffusion__target": "v", "loss__kind": "hybrid", "diffusion__learned_variance": True}
    refused(make, "config.loss.kind=hybrid needs a schedule with some signal at t = T", **settings)


@pytest.mark.parametrize("name", ["log_snr", "log_normal", "logit_normal", "learned"])
def test_the_bound_is_trained_at_the_times_of_its_chain_alone(name):
    make = lambda config: factory.objective(config, SimpleNamespace(apply=print), num_images=100)
    settings = {"loss__kind": "hybrid", "diffusion__learned_variance": True, "loss__times": name}
    refused(make, f"config.loss.times={name} draws times between those of the chain", **settings)


def test_schedules_are_shifted_and_scaled_as_configured():
    made = factory.noise_schedule(changed(diffusion__schedule="log_snr", diffusion__log_snr_last=-4.0))
    np.testing.assert_array_equal(made.alpha_bar, schedules.log_snr(1000, last=-4.0).alpha_bar)
    made = factory.noise_schedule(changed(diffusion__shift=2.0, diffusion__zero_terminal_snr=True))
    expected = schedules.zero_terminal_snr(schedules.shifted(schedules.linear(1000), 2.0))
    np.testing.assert_array_equal(made.alpha_bar, expected.alpha_bar)


def test_losses_that_do_not_fit_are_refused():
    make = lambda config: factory.objective(config, SimpleNamespace(apply=print), num_images=100)
    refused(make, "config.loss.kind='l2' is not one of: simple, hybrid, vlb", loss__kind="l2")
    refused(make, "config.loss.weight='snr' is not one of: eps, ", loss__weight="snr")
    refused(make, "config.diffusion.target='noise' is not one of: eps, x_0, v", diffusion__target="noise")
    refused(make, "a learned variance is trained with the variational bound", loss__kind="hybrid")
    refused(make, "a learned variance is trained with the variational bound", diffusion__learned_variance=True)


def test_the_learning_rate_rises_in_a_line_and_stays():
    rate = factory.learning_rate(experiment("cifar10"))
    np.testing.assert_allclose(rate(np.array([0, 500, 2500, 5000, 800_000])), [0, 2e-5, 1e-4, 2e-4, 2e-4], rtol=1e-5)
    constant = factory.learning_rate(changed(optim__warmup_steps=0))
    np.testing.assert_allclose([constant(0), constant(10**6)], 2e-4)


def test_the_learning_rate_falls_in_a_line_to_zero():
    rate = factory.learning_rate(changed(optim__warmup_steps=2, optim__decay_steps=4))
    np.testing.assert_allclose(rate(np.arange(8)), 2e-4 * np.array([0, 0.5, 1, 0.75, 0.5, 0.25, 0, 0]), rtol=1e-6)
    at_once = factory.learning_rate(changed(optim__warmup_steps=0, optim__decay_steps=4))
    np.testing.assert_allclose(at_once(np.arange(5)), 2e-4 * np.array([1, 0.75, 0.5, 0.25, 0]), rtol=1e-6)


@pytest.mark.parametrize("clip", [0.5, 0.0])
def test_the_optimizer_is_adam_behind_a_clip_of_the_global_norm(x64, clip):
    numbers = {"learning_rate": 0.1, "warmup_steps": 2, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 0.3}
    numbers["decay_steps"] = 4
    config = changed(optim__grad_clip=clip, **{f"optim__{key}": value for key, value in numbers.items()})
    optimizer = factory.optimizer(config)
    params = {"a": jnp.zeros(2), "b": jnp.zeros(1)}
    state = optimizer.init(params)
    first, second = np.zeros(3), np.zeros(3)
    for step, rate in enumerate([0.0, 0.05, 0.1, 0.075, 0.05]):
        grad = (step + 1) * np.array([0.1, -0.6, 1.8])
        updates, state = optimizer.update({"a": jnp.asarray(grad[:2]), "b": jnp.asarray(grad[2:])}, state, params)
        grad = grad * min(1, clip / np.linalg.norm(grad)) if clip else grad
        first, second = 0.8 * first + 0.2 * grad, 0.95 * second + 0.05 * grad**2
        mean, square = first / (1 - 0.8 ** (step + 1)), second / (1 - 0.95 ** (step + 1))
        expected = -rate * mean / (np.sqrt(square) + 0.3)
        np.testing.assert_allclose(np.concatenate([updates["a"], updates["b"]]), expected, rtol=1e-6)


def test_the_spec_carries_the_numbers_of_the_configuration():
    config = changed(optim__ema_decay=0.9, train__accumulation=4, data__random_flip=False, diffusion__num_timesteps=30)
    spec = factory.train_spec(config, factory.network(config), num_images=100)
    assert (spec.ema_decay, spec.accumulation, spec.random_flip) == (0.9, 4, False)
    assert isinstance(spec.optimizer, optax.GradientTransformation)
    np.testing.assert_array_equal(spec.transitions.now.t, np.arange(30, 0, -1))
    assert factory.train_spec(changed(), factory.network(changed()), num_images=100).random_flip is True


MADE_TIMES = {
    "uniform": time_sampling.uniform(30),
    "antithetic": time_sampling.antithetic(30),
    "importance": time_sampling.importance(30),
    "log_snr": time_sampling.uniform_log_snr(schedules.linear(30)),
    "log_normal": time_sampling.normal_log_snr(schedules.linear(30), mean=2.4, std=2.4),
    "logit_normal": time_sampling.normal_log_snr(schedules.linear(30), mean=0, std=2),
    "learned": time_sampling.learned(30),
}


@pytest.mark.parametrize("name", MADE_TIMES)
def test_times_are_drawn_as_named(name):
    assert MADE_TIMES.keys() == factory.TIMES.keys()
    config = changed(loss__times=name, diffusion__num_timesteps=30)
    times, expected = factory.train_spec(config, factory.network(config), num_images=100).times, MADE_TIMES[name]
    key = jax.random.key(0)
    np.testing.assert_array_equal(times.draw(times.init(), key, 9)[0], expected.draw(expected.init(), key, 9)[0])
    refused(
        lambda config: factory.train_spec(config, factory.network(config), num_images=100),
        "config.loss.times='all'",
        loss__times="all",
    )


MADE_SAMPLERS = {
    "ancestral": samplers.ancestral(samplers.Variance.LARGE),
    "ddim": samplers.ddim(0.25),
    "heun": samplers.heun(),
    "dpm_solver_pp_2m": samplers.dpm_solver_pp_2m(0.25),
    "dpm_solver_pp_3m": samplers.dpm_solver_pp_3m(0.25),
    "unipc": samplers.unipc(),
    "deis": samplers.deis(),
    "adams_bashforth": samplers.adams_bashforth(),
    "euler_maruyama": samplers.euler_maruyama(),
    "langevin": samplers.annealed_langevin(),
    "consistency": samplers.consistency(),
    "mean_flow": samplers.mean_flow(),
}


def four_moves(sampler):
    """The Gaussian's images after moves from t = 20 to t = 2, of which those of multistep solvers look back."""
    transitions = schedules.linear(20, beta_end=0.3).transitions([20, 15, 11, 6, 2])
    x = jnp.asarray(normal(3, GAUSSIAN.mean.size), jnp.float32)
    chain = jax.jit(lambda x: samplers.sample(sampler, GAUSSIAN.denoiser, keys(3), x_T=x, transitions=transitions))
    return np.asarray(chain(x))


@pytest.mark.parametrize("name", MADE_SAMPLERS)
def test_every_sampler_is_its_function(name):
    assert MADE_SAMPLERS.keys() == factory.SAMPLERS.keys()
    config = changed(sample__sampler=name, sample__eta=0.25, distil__method="mean_flow")
    with config.unlocked():
        config.task = "distil"
    ours = factory.sampler(config)(factory.sampler_settings(config))
    np.testing.assert_array_equal(four_moves(ours), four_moves(MADE_SAMPLERS[name]))


def test_steps_in_one_evaluation_need_a_network_that_is_told_where_they_end():
    with pytest.raises(UserError, match=r"^sampler=mean_flow needs a network that is told .*distil.method=mean_flow"):
        factory.sampler(changed(sample__sampler="mean_flow"))


def test_a_corrector_follows_any_sampler():
    config = changed(sample__sampler="ddim", sample__eta=0.25, sample__corrector_steps=2, sample__corrector_snr=0.3)
    ours = factory.sampler(config)(factory.sampler_settings(config))
    expected = samplers.langevin_corrector(samplers.ddim(0.25), snr=0.3, num_steps=2)
    np.testing.assert_array_equal(four_moves(ours), four_moves(expected))
    assert np.all(four_moves(ours) != four_moves(samplers.ddim(0.25)))


def test_noise_is_added_to_any_sampler():
    noise = schedules.linear(1000)
    config = changed(sample__sampler="heun", sample__churn=0.2, sample__churn_noise=1.01, sample__churn_low=0.1)
    ours = factory.sampler(config)(factory.sampler_settings(config))
    expected = samplers.churn(samplers.heun(), noise, amount=0.2, noise=1.01, low=0.1, high=1e6)
    np.testing.assert_array_equal(four_moves(ours), four_moves(expected))
    assert np.all(four_moves(ours) != four_moves(samplers.heun()))
    ends = {"sample__restart_low": 0.6, "sample__restart_high": 2.0, "sample__restart_steps": 2}
    config = changed(sample__sampler="ddim", sample__restarts=3, **ends)
    ours = factory.sampler(config)(factory.sampler_settings(config))
    expected = samplers.restart(samplers.ddim(), noise, num_restarts=3, low=0.6, high=2.0, num_steps=2)
    np.testing.assert_array_equal(four_moves(ours), four_moves(expected))
    assert np.all(four_moves(ours) != four_moves(samplers.ddim()))
    refused(factory.sampler, "restart_high: a restart needs 0.01 <= low", sample__restarts=1, sample__restart_high=0.05)


def test_another_churn_needs_no_other_program_and_the_first_one_does():
    program = lambda **settings: factory.chain_program(changed(**settings), 10)
    assert program(sample__churn=0.1) == program(sample__churn=0.3, sample__churn_noise=1.01)
    assert program(sample__churn=0.1) != program()
    assert program(sample__restarts=1) != program(sample__restarts=2) != program()


def test_the_variance_of_the_reverse_step_is_the_named_one():
    for name, variance in [("large", samplers.Variance.LARGE), ("small", samplers.Variance.SMALL)]:
        assert factory.variance(changed(sample__variance=name)) is variance
    learned = {"sample__variance": "learned"}
    assert factory.variance(changed(diffusion__learned_variance=True, **learned)) is samplers.Variance.LEARNED
    refused(factory.variance, "this model has no learned variance; use sample.variance=small or large", **learned)
    refused(
        factory.variance, "config.sample.variance='big' is not one of: small, large, learned", sample__variance="big"
    )


def test_samplers_that_do_not_fit_are_refused():
    refused(factory.sampler, "config.sample.sampler='ddpm' is not one of: ancestral, ", sample__sampler="ddpm")
    for eta in (-0.1, 1.5):
        refused(factory.sampler_settings, r"eta=\S+ must be at least 0 and at most 1", sample__eta=eta)


@pytest.mark.parametrize("name", ["uniform", "trailing", "leading", "linspace", "quadratic", "log_snr", "karras"])
def test_the_chain_visits_the_named_grid(name):
    assert name in factory.GRIDS
    config = changed(sample__grid=name, diffusion__num_timesteps=40)
    noise = schedules.linear(40)
    for steps in (1, 7):
        moves = factory.sampling_transitions(config, steps)
        expected = noise.transitions(getattr(timesteps, name)(noise, steps))
        jax.tree.map(np.testing.assert_array_equal, moves, expected)


def test_no_number_of_steps_means_every_time():
    moves = factory.sampling_transitions(changed(diffusion__num_timesteps=40), 0)
    jax.tree.map(np.testing.assert_array_equal, moves, schedules.linear(40).transitions())


def test_chains_that_do_not_fit_are_refused():
    make = lambda config: factory.sampling_transitions(config, 2000)
    refused(make, r"2000 steps: num_steps must lie in 1\.\.1000, got 2000")
    refused(make, "config.sample.grid='even' is not one of: uniform, ", sample__grid="even")


def test_the_source_is_the_named_one():
    assert [len(factory.source(changed("digits", data__split=split))) for split in ("train", "test")] == [1297, 500]
    refused(
        factory.source, "config.data.source='webdataset' is not one of: digits, folder, tfds", data__source="webdataset"
    )
    refused(factory.source, "give the folder of images with config.data.path=FOLDER")
    small = {"data__source": "digits", "data__image_size": 8}
    refused(factory.source, "the digits are 8x8 and grey", data__channels=3, **small)
    refused(factory.source, "the digits are 8x8 and grey", data__channels=1, data__crop=(0, 0, 4, 4), **small)
    refused(factory.source, "config.data.split='valid' is not one of", data__channels=1, data__split="valid", **small)


def test_every_key_of_the_chain_is_compiled_in_or_an_input_of_the_program():
    """A key that is neither would change nothing once a chain is compiled."""
    inputs = {*factory.sampler_settings(experiment("digits")), "labels", "decoder"}  # the decoder is the bound's
    assert GROUPS["sample"].keys.keys() - {*factory.ChainProgram._fields} == inputs


def test_diffusers_has_a_name_for_every_target_and_variance():
    assert {*TARGET, "flow", "edm"} == factory.TARGETS.keys()  # for which it has other schedulers
    assert {*VARIANCE, "analytic"} == factory.VARIANCES.keys()  # which needs measurements that diffusers lacks
