"""The experiments: each loads, builds and says how it is run, and the published ones have the published numbers."""

import ast
import dataclasses
import re

import jax
import pytest
from support.tiny import ROOT

from ddpm_jax import factory
from ddpm_jax.config import (
    CUSTOM,
    KEYS,
    check_ranges,
    experiment,
    experiment_names,
    flatten,
    ignored,
    problem,
)
from ddpm_jax.config.needs import needs_of
from ddpm_jax.config.page import as_markdown
from ddpm_jax.config.schema import GROUPS
from ddpm_jax.jobs.checks import BEST_BY
from ddpm_jax.models import Architecture

FOLDER = ROOT / "configs"
NAMES = [name for name in experiment_names() if name != "base"]

# What the papers and their code trained with. Every experiment: width 128, one head, linear betas 1e-4 to 0.02.
CIFAR10 = {
    "data.image_size": 32,
    "data.random_flip": True,
    "diffusion.schedule": "linear",
    "diffusion.num_timesteps": 1000,
    "diffusion.beta_start": 1e-4,
    "diffusion.beta_end": 0.02,
    "diffusion.target": "eps",
    "diffusion.learned_variance": False,
    "model.channels": 128,
    "model.channel_mult": (1, 2, 2, 2),
    "model.num_res_blocks": 2,
    "model.attention_resolutions": (16,),
    "model.num_heads": 1,
    "model.dropout": 0.1,
    "model.norm_groups": 32,
    "model.norm_epsilon": 1e-6,
    "model.padding": "same",
    "model.time_embedding": "sin_cos",
    "loss.kind": "simple",
    "loss.weight": "eps",
    "loss.times": "uniform",
    "optim.learning_rate": 2e-4,
    "optim.warmup_steps": 5000,
    "optim.grad_clip": 1.0,
    "optim.beta_1": 0.9,
    "optim.beta_2": 0.999,
    "optim.epsilon": 1e-8,
    "optim.ema_decay": 0.9999,
    "train.batch_size": 128,
    "train.num_steps": 800_000,
    "sample.sampler": "ancestral",
    "sample.variance": "large",
    "sample.num_steps": 0,
    "sample.clip_x_0": True,
}
CELEBA = {
    **CIFAR10,
    "data.image_size": 64,
    "model.channel_mult": (1, 2, 2, 2, 4),
    "loss.times": "antithetic",
    "optim.warmup_steps": 0,
}
LARGE = {
    **CIFAR10,
    "data.image_size": 256,
    "model.channel_mult": (1, 1, 2, 2, 4, 4),
    "model.dropout": 0.0,
    "optim.learning_rate": 2e-5,
    "train.batch_size": 64,
    "sample.variance": "small",
}
IMPROVED = {
    **CIFAR10,
    "data.random_flip": False,
    "diffusion.schedule": "cosine",
    "diffusion.num_timesteps": 4000,
    "diffusion.learned_variance": True,
    "model.num_res_blocks": 3,
    "model.attention_resolutions": (16, 8),
    "model.num_heads": 4,
    "model.dropout": 0.3,
    "model.scale_shift_norm": True,
    "model.norm_epsilon": 1e-5,
    "model.padding": "symmetric",
    "model.time_embedding": "cos_sin",
    "loss.kind": "hybrid",
    "loss.vlb_weight": 0.001,
    "optim.learning_rate": 1e-4,
    "optim.warmup_steps": 0,
    "optim.grad_clip": 0.0,
    "train.num_steps": 500_000,
    "sample.variance": "learned",
}
PUBLISHED = {
    "cifar10": CIFAR10,
    "celeba": CELEBA,
    "celebahq256": {**LARGE, "train.num_steps": 500_000},
    "lsun_church": {**LARGE, "train.num_steps": 1_200_000},
    "lsun_bedroom": {**LARGE, "train.num_steps": 2_400_000},
    "cifar10_improved": IMPROVED,
    "imagenet64": {
        **IMPROVED,
        "data.image_size": 64,
        "model.channel_mult": (1, 2, 3, 4),
        "model.dropout": 0.0,
        "train.num_steps": 1_500_000,
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_experiments_have_the_published_numbers(name):
    ours = flatten(experiment(name))
    assert {key: ours[key] for key in PUBLISHED[name]} == PUBLISHED[name]


def test_celeba_is_cropped_to_128_pixels_around_the_published_centre():
    left, top, right, bottom = experiment("celeba").data.crop
    assert (right - left, bottom - top) == (128, 128)
    assert ((left + right) / 2, (top + bottom) / 2) == (89, 121)


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_is_locked_named_as_its_file_and_complete(name):
    config = experiment(name)
    assert config.is_locked
    assert config.name == name
    assert flatten(config).keys() == flatten(experiment("base")).keys()
    with pytest.raises(AttributeError):
        config.train.batchsize = 1


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_says_how_it_is_run_on_what_and_what_it_reaches(name):
    docstring = ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text()))
    said = dict(re.findall(r"^(\w+): (.+)$", docstring, re.MULTILINE))
    assert said.keys() >= {"Command", "Hardware", "Reproduces"}
    default = "python train.py" if name == "digits" else f"python train.py --config=configs/{name}.py"
    assert re.match(re.escape(default) + r"( |,|$)", said["Command"])


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_builds(name):
    config = experiment(name)
    model = factory.network(config)
    jax.eval_shape(factory.initial_params(config, model), jax.random.key(0))
    spec = factory.train_spec(config, model, num_images=1297)
    assert len(spec.transitions.beta) == config.diffusion.num_timesteps
    assert not config.train.batch_size % (8 * config.train.accumulation)
    factory.denoiser(config, model)
    factory.sampler(config)(factory.sampler_settings(config))
    for steps in (config.sample.num_steps, config.log.preview_steps):
        assert len(factory.sampling_transitions(config, steps).beta) == (steps or config.diffusion.num_timesteps)


def test_the_keys_of_the_model_are_the_fields_of_the_architecture():
    """With equal defaults, but for the dropout of Ho et al.'s CIFAR-10."""
    defaults = {field.name: field.default for field in dataclasses.fields(Architecture)}
    ours = experiment("base").model.to_dict()
    assert ours.keys() == defaults.keys()
    assert {key: value for key, value in ours.items() if value != defaults[key]} == {"dropout": 0.1}


# Every key that names something, with the table of the objects that the names stand for.
TABLES = {
    "task": factory.TASKS,
    "posterior.weights": factory.RANDOM_WEIGHTS,
    "diffusion.schedule": factory.SCHEDULES,
    "diffusion.target": factory.TARGETS,
    "network": ("configured", CUSTOM),
    "distil.method": factory.METHODS,
    "loss.kind": (*factory.LOSSES, CUSTOM),
    "loss.weight": factory.WEIGHTS,
    "loss.times": factory.TIMES,
    "sample.sampler": factory.SAMPLERS,
    "sample.variance": factory.VARIANCES,
    "sample.grid": (*factory.GRIDS, *factory.FITTED_GRIDS),
    "sample.classifier_on": factory.GUIDED_BY,
    "sample.clip_order": ("after", "before"),
    "sample.decoder": factory.DECODERS,
    "data.source": (*factory.SOURCES, CUSTOM),
    "log.sinks": factory.SINKS,
    "distil.distance": factory.DISTANCES,
    "train.on_divergence": ("stop", "skip", "rollback"),
    "checkpoint.best": ("none", *BEST_BY),
}
OF_THE_NETWORK = {"model.padding", "model.time_embedding", "model.dtype"}


@pytest.mark.parametrize("path", TABLES)
def test_the_choices_of_the_schema_are_the_names_of_the_factory(path):
    assert sorted(KEYS[path].choices) == sorted(TABLES[path])


def test_every_key_with_choices_is_compared_with_a_table_or_built():
    assert {path for path, key in KEYS.items() if key.choices} == TABLES.keys() | OF_THE_NETWORK
    for path in OF_THE_NETWORK:
        for choice in KEYS[path].choices:
            config = experiment("digits")
            config.model[path.removeprefix("model.")] = choice
            factory.network(config)


@pytest.mark.parametrize("name", ["digits_progressive", "digits_consistency", "digits_mean_flow"])
def test_the_learning_rate_of_a_student_falls_to_zero_as_its_stages_end(name):
    config = experiment(name)
    rate, last = factory.learning_rate(config), config.train.num_steps
    ends = range(config.distil.stage_steps, last + 1, config.distil.stage_steps) if name.endswith("ive") else [last]
    for end in ends:
        assert 0 < rate(end - 1) < 0.01 * config.optim.learning_rate


def test_the_base_experiment_has_the_defaults_of_the_schema():
    assert flatten(experiment("base")) == {path: key.default for path, key in KEYS.items()}


@pytest.mark.parametrize("path", KEYS)
def test_every_key_has_a_meaning_and_a_default_that_obeys_its_rules(path):
    key = KEYS[path]
    assert len(key.help) > 5
    assert problem(path, key.default) == ""
    for need in key.needs:
        need.holds(KEYS[need.key].default)


def test_no_group_has_a_key_that_the_table_of_needs_misspells():
    assert needs_of(GROUPS).keys() <= KEYS.keys()


@pytest.mark.parametrize("name", ["base", *NAMES])
def test_no_experiment_sets_a_key_without_effect(name):
    check_ranges(experiment(name))
    assert ignored(experiment(name)) == []


def test_the_page_of_the_configuration_is_up_to_date():
    """`python -m ddpm_jax.config > docs/configuration.md` writes it."""
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert page == as_markdown() + "\n"
    for path, key in KEYS.items():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{path}` |")]
        assert row.count(" | ") == 3
        assert row.endswith("**fixed** |") == key.fixed
