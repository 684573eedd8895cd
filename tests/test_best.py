"""The best checkpoint: the state at the lowest number, in a directory of its own, the same after an interruption."""

import jax
import pytest
from support.tiny import same, tiny_config

import ddpm_jax as dj
from ddpm_jax.errors import UserError
from ddpm_jax.jobs import train
from ddpm_jax.training.restoring import saved_steps

pytestmark = pytest.mark.usefixtures("quick_compilation")

VALUES = {1: 5.0, 2: 3.0, 3: 4.0, 4: float("nan"), 5: 2.0, 6: 2.0, 7: 9.0, 8: 8.0}


def config(**changes):
    return tiny_config(**{"checkpoint__best": "fd", "checkpoint__every": 4, "log__quality_every": 1, **changes})


@pytest.fixture
def measured(monkeypatch):
    """The numbers that the measure of quality gives, by step."""
    values = dict(VALUES)
    monkeypatch.setattr(train, "quality", lambda *args, **options: [lambda step, state: {"fd": values[step]}])
    return values


def steps(workdir):
    return saved_steps(workdir / "best" / "checkpoints")


def test_the_state_at_the_lowest_number_is_a_run_of_its_own(measured, tmp_path):
    seen = {}
    hook = lambda step, state, metrics: seen.update({step: jax.device_get(state.ema_params)})
    train.train(config(), tmp_path, hooks=[hook])
    assert steps(tmp_path) == [5]  # the first of two equal ones
    best = dj.Run(tmp_path / "best")
    assert best.step == 5
    assert same(best.params, seen[5])
    assert best.sample(2, num_steps=2).shape == (2, 8, 8, 1)
    assert dj.Run(tmp_path).step == 8


@pytest.mark.slow
@pytest.mark.parametrize("stopped_at", [5, 6, 7])
def test_it_is_the_same_after_an_interruption(measured, tmp_path, stopped_at):
    """The run resumes from step 4, before the best step; the checkpoint of the latter is made again."""

    def kill(step, state, metrics):
        if step == stopped_at:
            raise SystemExit

    with pytest.raises(SystemExit):
        train.train(config(), tmp_path, hooks=[kill])
    assert dj.Run(tmp_path).step == 4
    assert steps(tmp_path) == [5]
    measured[6] = 2.5  # only a comparison with what is no longer there could prefer it
    train.train(config(train__num_steps=4), tmp_path)
    assert steps(tmp_path) == []
    train.train(config(), tmp_path)
    assert steps(tmp_path) == [5]
    assert dj.Run(tmp_path / "best").step == 5


@pytest.mark.slow
def test_what_was_best_before_an_interruption_is_compared_with_what_comes(measured, tmp_path):
    train.train(config(train__num_steps=4), tmp_path)
    assert steps(tmp_path) == [2]
    measured.update(dict.fromkeys(range(5, 9), 3.5))
    train.train(config(), tmp_path)
    assert steps(tmp_path) == [2]


def test_a_number_that_is_not_finite_keeps_nothing(measured, tmp_path):
    measured.update(dict.fromkeys(VALUES, float("nan")))
    train.train(config(train__num_steps=2), tmp_path)
    assert not (tmp_path / "best").exists()


@pytest.mark.parametrize(
    ("changes", "need"),
    [
        ({"checkpoint__best": "fd"}, r"fd has no effect: set config\.log\.quality_every above 0$"),
        ({"checkpoint__best": "held_out_loss"}, r"held_out_loss has no effect: set config\.data\.held_out above 0$"),
        ({"checkpoint__best": "loss"}, "is not one of: none, held_out_loss, fd"),
    ],
)
def test_a_number_that_is_not_measured_is_refused(tmp_path, changes, need):
    with pytest.raises(UserError, match=need):
        train.train(tiny_config(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()
