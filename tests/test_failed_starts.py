"""A run that is started again, and ends before it is opened, says so in its status."""

import shutil

import pytest
from support.tiny import arguments, run, tiny_config

from ddpm_jax.errors import TransientError, UserError
from ddpm_jax.jobs import train
from ddpm_jax.jobs.failed_starts import recorded_if_it_fails
from ddpm_jax.jobs.status.reading import observe
from ddpm_jax.runtime import paths
from ddpm_jax.training.checkpoint import Checkpoints
from ddpm_jax.training.heartbeat import read_status

pytestmark = pytest.mark.usefixtures("quick_compilation")
RUN = {"train__num_steps": 4, "checkpoint__every": 1}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A run that was ended at its second step."""
    workdir = tmp_path_factory.mktemp("original") / "run"
    stops = lambda step, state, metrics: step == 2 and (_ for _ in ()).throw(SystemExit(75))
    with pytest.raises(SystemExit):
        train.train(tiny_config(**RUN), workdir, hooks=[stops])
    return workdir


@pytest.fixture
def stopped(original, tmp_path):
    """A copy of that run."""
    workdir = shutil.copytree(original, tmp_path / "run")
    assert read_status(workdir).state == "stopped"
    return workdir


def test_an_error_that_a_person_must_mend_is_in_the_status_until_it_is_mended(stopped):
    with pytest.raises(UserError) as caught:
        train.train(tiny_config(**RUN, model__channels=16), stopped)
    status = read_status(stopped)
    assert (status.state, status.last_error) == ("needs you", str(caught.value))
    assert (status.step, status.num_steps, status.checkpoint_step) == (2, 4, 2)
    (note,) = observe(stopped, now=status.time + 5).notes
    assert note == f"last error, 5 s ago: {caught.value}"
    train.train(tiny_config(**RUN), stopped)
    assert read_status(stopped).state == "finished"


def test_a_value_that_is_refused_before_anything_is_loaded_is_too(stopped):
    shown = run("train.py", *arguments(tiny_config(**RUN, train__batch_size=-1)), f"--workdir={stopped}")
    status = read_status(stopped)
    assert (shown.status, status.state) == (1, "needs you")
    assert shown.err == f"error: {status.last_error}\n"


def test_nothing_is_written_while_another_process_trains(stopped):
    before = read_status(stopped)
    with Checkpoints(stopped), pytest.raises(UserError, match="holds another run"):
        train.train(tiny_config(**RUN, model__channels=16), stopped)
    assert read_status(stopped) == before


def test_an_error_that_may_pass_is_no_reason_to_call_a_person(stopped):
    before = read_status(stopped)
    with pytest.raises(TransientError), recorded_if_it_fails(stopped):
        raise TransientError("no answer; start the same command again")
    assert read_status(stopped) == before


def test_a_list_of_checkpoints_that_is_damaged_keeps_no_error_back(stopped):
    (stopped / "checkpoints" / "manifest.json").write_text("[]")
    with pytest.raises(UserError, match=r"manifest.json there is damaged"):
        train.train(tiny_config(**RUN), stopped)
    assert "manifest.json there is damaged" in read_status(stopped).last_error


def test_a_new_run_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="batch of 7 "):
        train.train(tiny_config(train__batch_size=7), tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_of_a_run_in_a_bucket_it_is_written_while_nobody_else_can_train_there(bucket):
    workdir = paths.any_path(f"{bucket}/failed_starts")
    train.train(tiny_config(**RUN), workdir)
    with pytest.raises(UserError, match="holds another run") as caught:
        train.train(tiny_config(**RUN, model__channels=16), workdir)
    status = read_status(workdir)
    assert (status.state, status.last_error, status.checkpoint_step) == ("needs you", str(caught.value), 4)
    assert train.train(tiny_config(**RUN | {"train__num_steps": 5}), workdir).step == 5
    assert read_status(workdir).state == "finished"
