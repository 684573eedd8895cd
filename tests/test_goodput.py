"""Every second of a run belongs to one phase, and the log has them all, of every start."""

import re

import pytest
from support.tiny import arguments, run, tiny_config

from ddpm_jax.jobs import train
from ddpm_jax.training import goodput
from ddpm_jax.training.goodput import PHASES, SECONDS, Clock, goodput_table, seconds_by_phase, training_seconds
from ddpm_jax.training.log import read_log

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture
def now(monkeypatch):
    """The time, which a test sets."""
    now = [100.0]
    monkeypatch.setattr(goodput.time, "perf_counter", lambda: now[0])
    return now


def some(seconds):
    return {name: value for name, value in seconds.items() if value}


def test_a_second_belongs_to_the_phase_that_was_entered_last(now):
    clock = Clock()
    now[0] += 1
    with clock.phase("steps"):
        now[0] += 2
        with clock.phase("input"):
            now[0] += 4
        now[0] += 8
        with pytest.raises(ValueError), clock.phase("hooks"):  # noqa: PT011, PT012
            now[0] += 16
            raise ValueError
        assert some(clock.taken()) == {"starting": 1, "steps": 10, "input": 4, "hooks": 16}
        now[0] += 32
    now[0] += 64
    assert some(clock.taken()) == {"steps": 32, "starting": 64}
    assert clock.taken().keys() == PHASES.keys()


def test_the_first_call_of_a_step_is_its_compilation(now):
    def step(seconds):
        now[0] += seconds
        return seconds

    clock = Clock()
    timed = clock.compiling_first(step)
    assert [timed(seconds) for seconds in (8, 1, 2)] == [8, 1, 2]
    assert some(clock.taken()) == {"compiling": 8, "steps": 3}


def test_what_a_run_did_since_its_checkpoint_is_lost_when_it_begins_again_there(now):
    clock = Clock()
    now[0] += 1
    with clock.phase("steps"):
        now[0] += 2
    clock.begin([{"step": 3, SECONDS["steps"]: 4.0, SECONDS["saving"]: 8.0}, {"step": 4}])
    assert some(clock.taken()) == {"starting": 1, "lost": 14}


def test_a_speed_is_that_of_training(now):
    """Without starts, compilation, measurements and previews."""
    ones = dict.fromkeys(PHASES, 1.0)
    assert training_seconds(ones) == 5
    assert training_seconds({**ones, "starting": 9, "compiling": 9, "measuring": 9, "previews": 9, "lost": 9}) == 5


def test_the_table_has_the_longest_first_and_shares_of_the_whole():
    seconds = {**dict.fromkeys(PHASES, 0.0), "steps": 7200.0, "input": 795.0, "saving": 5.0, "hooks": 0.01}
    assert goodput_table(seconds) == [
        "     7,200.0 s   90.0%  training steps",
        "       795.0 s    9.9%  waiting for batches",
        "         5.0 s    0.1%  saving",
    ]


def test_the_log_of_a_run_has_its_seconds_and_those_of_an_earlier_start_are_kept_or_lost(tmp_path):
    """Of three lines and a checkpoint at step 2, the resumed run keeps two and takes the third step again."""
    config = tiny_config(train__num_steps=5)
    stops = lambda step, state, metrics: step == 3 and (_ for _ in ()).throw(SystemExit)
    with pytest.raises(SystemExit):
        train.train(config, tmp_path, hooks=[stops])
    before = read_log(tmp_path)
    assert [line["step"] for line in before] == [1, 2, 3]
    assert {SECONDS[name] for name in ("starting", "compiling", "steps")} <= before[0].keys()
    lost = seconds_by_phase(before[2:])
    outcome = train.start(config, tmp_path)
    after = read_log(tmp_path)
    assert after[:2] == before[:2]
    assert after[2][SECONDS["lost"]] == pytest.approx(sum(lost.values()), abs=0.002)
    assert SECONDS["compiling"] in after[2]
    total = seconds_by_phase(after)
    assert all(outcome.seconds[name] >= total[name] for name in PHASES)
    assert outcome.seconds["saving"] > total["saving"]  # the last save is in no line


def test_the_program_prints_where_the_time_of_a_run_went(tmp_path):
    """And not where it was complete before."""
    words = [*arguments(tiny_config(train__num_steps=2)), f"--workdir={tmp_path}"]
    table = re.compile(r"^ +\d+\.\d s +\d+\.\d%  compiling the step$", re.MULTILINE)
    assert table.search(run("train.py", *words).out)
    again = run("train.py", *words)
    assert (again.status, table.search(again.out)) == (0, None)
