"""The command line: an experiment by name or by file, keys in every form, mistakes in one line, help of every key."""

import re
import shutil
import sys

import pytest
from support import tiny
from support.tiny import ROOT

from ddpm_jax.config import (
    KEYS,
    experiment,
    flatten,
)
from ddpm_jax.jobs import train


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """The configurations that `train.py` trains, in place of training them, in an empty folder."""
    configs = []

    def start(config, workdir, **options):
        configs.append(config)
        sys.exit(0)

    monkeypatch.setattr(train, "start", start)
    monkeypatch.chdir(tmp_path)
    return configs


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ([], "digits"),
        (["--config=celeba"], "celeba"),
        (["--config", "celeba"], "celeba"),
        ([f"--config={ROOT / 'configs' / 'celeba.py'}"], "celeba"),
    ],
)
def test_the_program_takes_an_experiment_by_name_or_by_file(given, name, trained):
    line = f"training {name} up to step {experiment(name).train.num_steps:,} in runs/{name}\n"
    assert tiny.run("train.py", *given, "--config.seed=5") == (0, line, "")
    expected = experiment(name)
    expected.seed = 5
    assert [flatten(config) for config in trained] == [flatten(expected)]


def test_a_copy_of_an_experiment_works_in_any_folder(trained, tmp_path):
    shutil.copy(ROOT / "configs" / "own_images.py", tmp_path / "mine.py")
    assert tiny.run("train.py", "--config=mine.py").status == 0
    assert [flatten(config) for config in trained] == [flatten(experiment("own_images"))]


def test_a_configuration_file_may_take_an_argument(trained, tmp_path):
    text = "import ddpm_jax as dj\n\ndef get_config(name):\n    return dj.experiment(name)\n"
    (tmp_path / "chosen.py").write_text(text)
    assert tiny.run("train.py", "--config=chosen.py:mnist").status == 0
    assert [config.name for config in trained] == ["mnist"]


@pytest.mark.parametrize("flag", ["--config.data.random_flip", "--noconfig.data.random_flip", "-config.seed=5"])
def test_keys_are_changed_in_every_form_that_absl_knows(flag, trained):
    assert tiny.run("train.py", flag, "--config.train.num_steps", "7", "--config.model.channel_mult=1,3").status == 0
    (config,) = trained
    assert (config.train.num_steps, config.model.channel_mult) == (7, (1, 3))
    assert config.data.random_flip == (flag == "--config.data.random_flip")
    assert config.seed == (5 if "seed" in flag else 0)


def test_a_value_may_be_an_argument_of_its_own_and_begin_with_a_dash(trained):
    arguments = ["--config.optim.learning_rate", "-1", "--verbosity", "-1", "--config.sample.labels=", "--workdir", "x"]
    refused = "error: config.optim.learning_rate=-1.0 must be 0 or a positive number\n"
    assert tiny.run("train.py", *arguments) == (1, "", refused)
    assert tiny.run("train.py", "--config.optim.learning_rate", "--config.seed=1").err == (
        "error: --config.optim.learning_rate=--config.seed=1: it must be a number\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.train.batchsize=3"], "no configuration key 'train.batchsize'; did you mean 'train.batch_size'?"),
        (
            ["--config.trian.batch_size=3"],
            "no configuration key 'trian.batch_size'; did you mean 'train.batch_size'?",
        ),
        (["--config.learning_rate=1"], "no configuration key 'learning_rate'; did you mean 'optim.learning_rate'?"),
        (["--config.seed=1", "--config=digits"], "put --config=FILE before --config.seed=1"),
        (["--config.data.random_flip=maybe"], "--config.data.random_flip=maybe: it must be True or False"),
        (["--config.train.batch_size", "abc"], "--config.train.batch_size=abc: it must be a whole number"),
        (["--config.train.batch_size=1e3"], "--config.train.batch_size=1e3: it must be a whole number"),
        (["--config.sample.eta=abc"], "--config.sample.eta=abc: it must be a number"),
        (["--data.path=x"], "--data.path=x is a key of the configuration: write it as --config.data.path=VALUE"),
        (["--nodata.random_flip"], "--nodata.random_flip is a key of the configuration: write it as --config.data.r"),
        (["--confg.x=2"], "there is no flag --confg.x; did you mean --config?"),
        (["--sedd=2"], "there is no flag --sedd; did you mean --config.seed?"),
        (["--workdri=x"], "there is no flag --workdri; did you mean --workdir?"),
        (["--dry_run=maybe"], "--dry_run=maybe: it must be True or False"),
        (["--num_processes=two"], "--num_processes=two: it must be a whole number"),
        (
            ["--config.loss.kind=vbl"],
            "loss.kind='vbl' is not one of: simple, hybrid, vlb, custom; did you mean 'vlb'?",
        ),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = tiny.run("train.py", *arguments)
    assert (status, out) == (1, "")
    assert err.startswith("error: ")
    assert message in err.splitlines()[0]
    assert not list(tmp_path.iterdir())


def test_a_key_that_a_configuration_file_misspells_is_named(trained, tmp_path):
    text = "import ddpm_jax as dj\n\ndef get_config():\n    c = dj.experiment('digits')\n    c.train.batchsize = 3\n"
    (tmp_path / "mine.py").write_text(text)
    error = tiny.run("train.py", "--config=mine.py").err
    assert error == (
        "error: the configuration file: there is no configuration key 'batchsize'; did you mean 'train.batch_size'?\n"
    )


def test_the_help_of_the_configuration_has_every_key(trained):
    status, out, err = tiny.run("train.py", "--help_config")
    assert (status, err, trained) == (0, "", [])
    for path, key in KEYS.items():
        assert f"  --config.{path}=" in out
        assert set(key.choices) <= set(re.findall(r"\w+", out))
    assert max(map(len, out.splitlines())) <= 100
    assert "[a number, at least 0 and at most 1; only with task=denoise or distil and sample.sampler=ddim" in out
