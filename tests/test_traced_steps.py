"""A trace of chosen steps: it has these steps, and the run is the same with it, resumed or not."""

import gzip
import json

import pytest
from support import tiny
from support.tiny import arguments, same, tiny_config, untimed

from ddpm_jax.errors import UserError
from ddpm_jax.jobs import train
from ddpm_jax.training.traced_steps import TracedSteps

pytestmark = pytest.mark.usefixtures("quick_compilation")


def traced_run(workdir, first, last, **overrides):
    traced = TracedSteps(first, last)
    return train.train(tiny_config(**overrides), workdir, hooks=[traced], sinks=[traced])


def steps_in(workdir):
    """The numbers of the steps that a trace has."""
    (path,) = (workdir / "profile").rglob("perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    return sorted(int(event["args"]["step_num"]) for event in events if event.get("name") == "train")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, quick_compilation):
    workdir = tmp_path_factory.mktemp("whole")
    return train.train(tiny_config(train__num_steps=6), workdir), untimed(workdir)


def test_a_trace_has_its_steps_and_changes_nothing(whole, tmp_path, capfd):
    state = traced_run(tmp_path, 2, 4, train__num_steps=6)
    assert same(state, whole[0])
    assert untimed(tmp_path) == whole[1]
    assert steps_in(tmp_path) == [2, 3, 4]
    assert f"the trace of steps 2 to 4 is in {tmp_path}/profile" in capfd.readouterr().err


@pytest.mark.slow
def test_a_resumed_run_is_traced_from_its_first_step(whole, tmp_path):
    train.train(tiny_config(train__num_steps=4), tmp_path)
    state = traced_run(tmp_path, 5, 6, train__num_steps=6)
    assert same(state, whole[0])
    assert steps_in(tmp_path) == [5, 6]


@pytest.mark.slow
def test_a_run_that_ends_early_has_what_was_traced(tmp_path):
    def stop(step, state, metrics):
        if step == 3:
            raise ValueError("stop")

    traced = TracedSteps(2, 6)
    with pytest.raises(ValueError, match="stop"):
        train.train(tiny_config(), tmp_path, hooks=[traced, stop], sinks=[traced])
    assert {2, 3} <= {*steps_in(tmp_path)} <= {2, 3, 4}


@pytest.mark.parametrize(("first", "last"), [(0, 3), (4, 3)])
def test_what_are_no_steps_is_refused(first, last):
    with pytest.raises(UserError, match=rf"steps {first} to {last} cannot be traced: give the first and the last"):
        TracedSteps(first, last)


def test_steps_that_the_run_does_not_take_are_refused(tmp_path):
    with pytest.raises(UserError, match="steps 7 to 9 cannot be traced: choose from steps 1 to 8"):
        traced_run(tmp_path / "run", 7, 9)
    assert not (tmp_path / "run").exists()  # what fails before its first step leaves nothing
    train.train(tiny_config(train__num_steps=4), tmp_path / "run")
    with pytest.raises(UserError, match="steps 4 to 5 cannot be traced: choose from steps 5 to 8"):
        traced_run(tmp_path / "run", 4, 5)


def test_the_flag(tmp_path):
    given = [f"--workdir={tmp_path}/run", *arguments(tiny_config(train__num_steps=2, task="denoise"))]
    for wrong in ("5", "1:", "a:b", "1:2:3", "-1:2"):
        refused = tiny.run("train.py", f"--profile={wrong}", *given)
        assert refused.status == 1
        assert refused.err.strip().endswith(
            f"--profile={wrong}: write the first and the last step as START:STOP, such as 100:105"
        )
    assert tiny.run("train.py", "--profile=2:2", *given).status == 0
    assert steps_in(tmp_path / "run") == [2]
