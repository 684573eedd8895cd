"""Configurations keep every value through JSON, their numbers are checked, and a run is not mixed with another."""

import functools
import json

import pytest
from support import tiny
from support.tiny import tiny_config

from ddpm_jax.config import (
    KEYS,
    changes,
    check_ranges,
    check_resumable,
    experiment,
    flatten,
    from_json,
    ignored,
    in_words,
    to_json,
)
from ddpm_jax.errors import UserError
from ddpm_jax.jobs import train
from ddpm_jax.jobs.resources import plan


def test_a_configuration_comes_back_from_json_with_its_types():
    config = tiny_config(data__crop=(1, 2, 3, 4), optim__learning_rate=3e-4)
    back = from_json(json.loads(json.dumps(to_json(config))))
    assert flatten(back) == flatten(config)
    assert all(type(value) is type(flatten(config)[key]) for key, value in flatten(back).items())
    assert back.is_locked


def test_keys_are_flattened_to_paths():
    assert flatten({"a": 1, "b": {"c": (2,), "d": {"e": "x"}}}) == {"a": 1, "b.c": (2,), "b.d.e": "x"}


def test_changes_are_found_in_every_group():
    old, new = {"a": 1, "b": {"c": [2], "d": 3}}, {"a": 1, "b": {"c": [2, 2], "e": 4}}
    found = changes(old, new)
    assert found == {"b.c": ([2], [2, 2]), "b.d": (3, None), "b.e": (None, 4)}
    assert in_words({"b.c": (2, "x")}) == "b.c is 2 there and 'x' here"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 1),
        ("data.split", "all"),
        ("data.held_out", 0.1),
        ("data.random_flip", True),
        ("diffusion.schedule", "cosine"),
        ("model.channels", 16),
        ("model.time_scale", 0.5),
        ("loss.times", "importance"),
    ],
)
def test_what_makes_another_run_is_refused_by_name(key, value):
    stored = to_json(tiny_config())
    with pytest.raises(UserError) as caught:
        check_resumable(stored, tiny_config(**{key.replace(".", "__"): value}), workdir="runs/mine")
    old = flatten(stored)[key]
    expected = f"runs/mine holds another run: {key} is {old!r} there and {value!r} here; choose another workdir or "
    assert str(caught.value).startswith(expected)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.path", "elsewhere"),
        ("data.num_workers", 4),
        ("data.skip_unreadable", True),
        ("optim.learning_rate", 0.5),
        ("model.dropout", 0.5),
        ("train.num_steps", 99),
        ("loss.weight", "v"),
        ("name", "other"),
        ("sample.eta", 1.0),
    ],
)
def test_what_may_change_within_a_run_is_told(key, value):
    stored = to_json(tiny_config())
    changed = check_resumable(stored, tiny_config(**{key.replace(".", "__"): value}), workdir="w")
    assert changed == {key: (flatten(stored)[key], value)}
    assert check_resumable(stored, tiny_config(), workdir="w") == {}


def test_converted_weights_are_trained_on_any_images_of_their_size():
    """They have seen none here: a folder without a path."""
    stored = to_json(tiny_config(data__source="folder", data__path=""))
    assert "data.source" in check_resumable(stored, tiny_config(data__random_flip=True), workdir="w")
    for key, value in {"image_size": 16, "channels": 3}.items():
        with pytest.raises(UserError, match=f"data.{key} is"):
            check_resumable(stored, tiny_config(**{f"data__{key}": value}), workdir="w")
    known = to_json(tiny_config(data__source="folder", data__path="pictures"))
    with pytest.raises(UserError, match=r"data\.source is"):
        check_resumable(known, tiny_config(), workdir="w")


OUT_OF_RANGE = {
    "data.image_size": 0,
    "data.num_workers": -1,
    "data.cache_gib": -1.0,
    "data.crop": (0, 0, "a", 4),
    "diffusion.num_timesteps": 0,
    "model.channels": 0,
    "model.channel_mult": (1, 0),
    "model.attention_resolutions": ("16",),
    "model.num_res_blocks": -1,
    "model.num_heads": 0,
    "model.head_channels": -4,
    "model.norm_groups": 0,
    "model.norm_epsilon": -1e-6,
    "model.time_scale": 0.0,
    "model.dropout": 1.0,
    "data.channels": 0,
    "loss.vlb_weight": -0.1,
    "optim.learning_rate": float("nan"),
    "optim.warmup_steps": -1,
    "optim.decay_steps": -1,
    "optim.grad_clip": -1.0,
    "optim.beta_1": 1.0,
    "optim.beta_2": -0.1,
    "optim.epsilon": -1.0,
    "optim.ema_decay": 1.5,
    "train.batch_size": 0,
    "train.num_steps": 0,
    "distil.guidance_scale": -0.5,
    "teacher.guidance_scale": -1.0,
    "distil.first_steps": 0,
    "distil.teacher_steps": 1,
    "distil.stage_steps": 0,
    "train.accumulation": 0,
    "train.divergence_threshold": -1.0,
    "train.rollback_batches": 0,
    "train.max_passed_over": 0,
    "train.pass_over": (3, 0),
    "diffusion.shift": 0.0,
    "diffusion.sigma_data": 0.0,
    "sample.corrector_steps": -1,
    "sample.corrector_snr": -1.0,
    "sample.churn": -0.1,
    "sample.churn_noise": 0.0,
    "sample.churn_low": -1.0,
    "sample.churn_high": 0.0,
    "sample.restarts": -1,
    "sample.restart_low": 0.0,
    "sample.restart_high": 0.0,
    "sample.restart_steps": 0,
    "sample.eta": 1.5,
    "sample.num_steps": -1,
    "sample.guidance_scale": -0.5,
    "sample.classifier_scale": -1.0,
    "mesh.fsdp": 0,
    "posterior.prior_std": 0.0,
    "posterior.init_std": -0.1,
    "posterior.num_samples": 0,
    "posterior.samples_per_step": 0,
    "labels.num_classes": -1,
    "labels.dropout": 1.0,
    "labels.names": (1, 2),
    "log.sinks": ("tensorboard", "tensorboard"),
    "checkpoint.every": 0,
    "checkpoint.every_minutes": -1.0,
    "checkpoint.keep": 0,
    "checkpoint.keep_every": -1,
    "log.every": 0,
    "log.preview_every": -1,
    "log.preview_images": 0,
    "log.preview_steps": 0,
    "log.held_out_every": -1,
    "log.quality_every": -1,
    "log.quality_images": 1,
    "log.quality_steps": 0,
    "log.stacks_after": -1.0,
    "data.held_out": 1.0,
    "seed": -1,
}


@pytest.mark.parametrize("key", OUT_OF_RANGE)
def test_a_number_out_of_range_is_named(key):
    with pytest.raises(UserError, match=rf"^config\.{key}=.* (must|needs) [^\n]*$"):
        check_ranges(tiny_config(**{key.replace(".", "__"): OUT_OF_RANGE[key]}))


def test_every_number_of_the_base_configuration_is_checked():
    """Save for those that the noise schedule bounds, and the origin of time."""
    numbers = {key for key, value in flatten(experiment("base")).items() if type(value) in (int, float, tuple)}
    elsewhere = {f"diffusion.{key}" for key in ("beta_start", "beta_end", "log_snr_first", "log_snr_last")}
    elsewhere.add("model.time_offset")
    assert numbers - elsewhere == set(OUT_OF_RANGE)


@pytest.mark.parametrize(
    ("names", "rule"),
    [
        (("a", 2), "must contain names, each only once"),
        (("a", "a"), "must contain names, each only once"),
        (("a", "b", "c"), "must contain one name for each class"),
    ],
)
def test_each_class_has_a_name_of_its_own(names, rule):
    check_ranges(tiny_config(labels__num_classes=2, labels__names=("a", "b")))
    with pytest.raises(UserError, match=rf"^config.labels.names=\('a'.*\) {rule}$"):
        check_ranges(tiny_config(labels__num_classes=2, labels__names=names))


def test_a_path_that_cannot_be_used_is_refused_with_the_ranges():
    with pytest.raises(UserError, match=r"^cannot use s3://bucket/photos: only gs:// buckets are used directly"):
        check_ranges(tiny_config(data__path="s3://bucket/photos"))


def without(stored, *keys):
    """A stored configuration as of a version that did not have these keys."""
    stored = json.loads(json.dumps(stored))
    for key in keys:
        *groups, name = key.split(".")
        functools.reduce(dict.__getitem__, groups, stored).pop(name)
    return stored


def test_keys_that_are_newer_than_a_run_have_their_defaults_in_it():
    old = without(to_json(tiny_config(seed=3)), "labels.names", "model.time_scale", "posterior")
    assert flatten(from_json(old)) == flatten(tiny_config(seed=3))
    assert check_resumable(old, tiny_config(seed=3), workdir="w") == {}
    assert check_resumable(old, tiny_config(seed=3, posterior__num_samples=9), workdir="w") == {
        "posterior.num_samples": (8, 9)
    }
    with pytest.raises(UserError, match=r"model\.time_scale is 1\.0 there and 0\.5 here"):
        check_resumable(old, tiny_config(seed=3, model__time_scale=0.5), workdir="w")


def test_keys_of_a_newer_version_are_refused_in_one_line():
    stored = to_json(tiny_config())
    stored["model"]["wavelets"], stored["quantum"] = True, {"qubits": 3}
    with pytest.raises(UserError) as caught:
        from_json(stored)
    assert str(caught.value) == (
        "the run's configuration has keys that this version does not know (model.wavelets, quantum.qubits): it was "
        "written by a newer version; update ddpm_jax"
    )


def test_class_names_differ_only_where_both_have_some():
    named, other, none = (
        tiny_config(labels__num_classes=2, labels__names=names) for names in (("cat", "dog"), ("dog", "cat"), ())
    )
    for stored, config in ((none, named), (named, none), (named, named)):
        assert check_resumable(to_json(stored), config, workdir="w") == {}
    with pytest.raises(UserError, match=r"labels.names is \['cat', 'dog'\] there and \['dog', 'cat'\] here;"):
        check_resumable(to_json(named), other, workdir="w")


def test_what_differs_is_told_briefly():
    told = in_words({f"key{i}": (i, "x" * 500) for i in range(50)})
    assert len(told) < 800
    assert told.startswith("key0 is 0 there and 'xxx")
    assert told.endswith(", and 44 more keys")


def test_a_network_has_levels():
    with pytest.raises(
        UserError, match=r"^config.model.channel_mult=\(\) must contain a number of at least 1 for each level$"
    ):
        check_ranges(tiny_config(model__channel_mult=()))


def test_the_least_values_are_in_range():
    zeros = ["seed", "optim.grad_clip", "optim.warmup_steps", "optim.decay_steps", "optim.beta_1", "log.preview_every"]
    ones = ["train.batch_size", "train.num_steps", "checkpoint.every", "checkpoint.keep", "model.channels"]
    least = {**dict.fromkeys(zeros, 0), **dict.fromkeys(ones, 1)}
    check_ranges(tiny_config(**{key.replace(".", "__"): value for key, value in least.items()}))


def test_a_crop_is_no_or_four_whole_numbers():
    check_ranges(tiny_config(data__crop=(0, 0, 4, 4)))
    with pytest.raises(UserError, match=r"^config.data.crop=\(0, 4\) must contain no or four whole numbers$"):
        check_ranges(tiny_config(data__crop=(0, 4)))


@pytest.mark.parametrize("path", [path for path, key in KEYS.items() if key.choices])
def test_an_unknown_name_is_refused_with_the_nearest_choice(path):
    typed = f"{KEYS[path].choices[-1]}q"
    value = (KEYS[path].choices[0], typed) if type(KEYS[path].default) is tuple else typed
    with pytest.raises(UserError) as caught:
        check_ranges(tiny_config(**{path.replace(".", "__"): value}))
    known = ", ".join(KEYS[path].choices)
    assert str(caught.value).startswith(
        f"config.{path}={value!r} {'has ' + repr(typed) + ', which ' if value != typed else ''}is not one of: {known}"
    )
    if len(typed) > 3:  # difflib finds nothing near in a name of one letter
        assert str(caught.value).endswith(f"; did you mean {typed[:-1]!r}?")


def test_a_configuration_has_the_keys_of_the_schema():
    more, less = tiny_config().unlock(), tiny_config().unlock()
    more.model.chanels = 4
    del less.optim
    with pytest.raises(UserError, match=r"no configuration key 'model.chanels'; did you mean 'model.channels'\?$"):
        check_ranges(more)
    with pytest.raises(UserError, match=r"^the configuration has no optim.beta_1, .*: start from experiment\('base'\)"):
        check_ranges(less)


# A key that has no effect, the other key that causes this, and what makes the rest of the configuration fit.
WITHOUT_EFFECT = [
    ("loss.weight", "v", "loss.kind", {"loss__kind": "vlb", "diffusion__learned_variance": True}),
    ("loss.vlb_weight", 0.5, "loss.kind", {}),
    ("loss.vlb_weight", 0.5, "loss.kind", {"loss__kind": "vlb", "diffusion__learned_variance": True}),
    ("loss.weight", "v", "task", {"task": "classify", "labels__num_classes": 10}),
    ("loss.kind", "vlb", "task", {"task": "classify", "labels__num_classes": 10}),
    ("diffusion.target", "v", "task", {"task": "classify", "labels__num_classes": 10}),
    ("diffusion.beta_start", 1e-3, "diffusion.schedule", {"diffusion__schedule": "cosine"}),
    ("diffusion.beta_end", 0.01, "diffusion.schedule", {"diffusion__schedule": "cosine"}),
    ("labels.dropout", 0.1, "labels.num_classes", {}),
    ("labels.dropout", 0.1, "task", {"task": "classify", "labels__num_classes": 10}),
    ("posterior.prior_std", 2.0, "posterior.weights", {}),
    ("posterior.num_samples", 4, "posterior.weights", {}),
    ("data.path", "photos", "data.source", {}),
    ("data.name", "mnist", "data.source", {}),
    ("data.crop", (0, 0, 4, 4), "data.source", {}),
    ("data.split", "test", "data.source", {"data__source": "folder"}),
    ("data.label", "genre", "data.source", {"data__source": "folder"}),
    ("data.num_workers", 2, "data.on_device", {}),
    ("log.held_out_every", 100, "data.held_out", {}),
    ("log.quality_every", 100, "task", {"task": "classify", "labels__num_classes": 10}),
    ("log.quality_features", "torch_fidelity", "log.quality_every", {}),
    ("model.num_heads", 2, "model.head_channels", {"model__head_channels": 4}),
    ("sample.eta", 0.5, "sample.sampler", {}),
    ("sample.corrector_snr", 0.2, "sample.corrector_steps", {}),
    ("sample.churn_noise", 1.007, "sample.churn", {}),
    ("sample.restart_high", 0.5, "sample.restarts", {}),
    ("diffusion.log_snr_last", -4.0, "diffusion.schedule", {}),
    ("sample.guidance_scale", 2.0, "task", {"task": "classify", "labels__num_classes": 10}),
    ("teacher.workdir", "runs/digits_flow", "task", {}),
    ("distil.stage_steps", 100, "task", {}),
    ("distil.first_steps", 8, "distil.method", {"task": "distil", "distil__method": "consistency"}),
    ("distil.distance", "huber", "distil.method", {"task": "distil", "distil__method": "mean_flow"}),
    ("distil.teacher_steps", 4, "distil.method", {"task": "distil", "distil__method": "consistency"}),
    ("loss.weight", "v", "task", {"task": "distil"}),
    ("distil.guidance_scale", 2.0, "distil.method", {"task": "distil", "distil__method": "consistency"}),
]


@pytest.mark.parametrize(("path", "value", "other", "given"), WITHOUT_EFFECT)
def test_a_key_that_is_has_no_effect_is_named_with_the_key_that_causes_it(path, value, other, given):
    assert ignored(tiny_config(**given)) == []
    (line,) = ignored(tiny_config(**given, **{path.replace(".", "__"): value}))
    assert line.startswith(f"config.{path}={value!r} has no effect with config.{other}=")
    assert line.endswith(f"or leave {path} at {KEYS[path].default!r}")
    assert f": it needs {other}" in line


def test_what_the_experiment_itself_sets_is_not_refused():
    """`--config=celeba --config.data.source=folder` keeps the name of the data set of celeba."""
    config = experiment("celeba")
    config.data.source, config.data.path = "folder", "photos"
    assert ignored(config) == []
    config.data.name = "celeb_b"
    assert [line.split("=")[0] for line in ignored(config)] == ["config.data.name"]


def test_a_new_run_with_a_key_without_effect_is_refused_and_a_resumed_one_gets_a_note(tmp_path, capsys):
    config = tiny_config(loss__vlb_weight=0.5)
    with pytest.raises(UserError, match=r"^config.loss.vlb_weight=0.5 has no effect with config.loss.kind='simple'"):
        train.train(config, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(UserError, match=r"^config.loss.vlb_weight=0.5 has no effect"):
        plan(config)
    tiny.save(tmp_path / "old", config, steps=(8,))
    capsys.readouterr()
    train.train(config, tmp_path / "old")
    assert "note: config.loss.vlb_weight=0.5 has no effect with config.loss.kind='simple'" in capsys.readouterr().out


def test_keys_without_effect_for_the_same_reason_share_a_line():
    config = tiny_config(network="custom", model__head_channels=4, model__num_heads=2)
    (line,) = ignored(config)
    assert line.startswith("config.model.channels=8, config.model.channel_mult=(1,), ")
    assert " have no effect with config.network='custom': they need network=configured; change one of them" in line
    assert ", model.channel_mult at (1, 2, 2, 2), " in line


def test_a_key_without_effect_does_not_hinder_resuming():
    stored = tiny_config(network="custom", given__network="Mlp")
    other = tiny_config(network="custom", given__network="Mlp", model__channels=16)
    assert check_resumable(to_json(stored), other, workdir="run") == {"model.channels": (8, 16)}
    with pytest.raises(UserError, match=r"^run holds another run: model.channels is 8 there and 16 here"):
        check_resumable(to_json(tiny_config()), tiny_config(model__channels=16), workdir="run")
