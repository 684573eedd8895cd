"""A failed save is one line of ours in a notebook too, without the tracebacks of Orbax's threads."""

import logging

import absl.logging
import pytest
from tiny import random_state, tiny_config

from ddpm_jax.checkpoint import Checkpoints
from ddpm_jax.errors import UserError
from ddpm_jax.quiet import quieten_libtpu


@pytest.fixture
def full_disk(monkeypatch):
    async def fail(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("orbax.checkpoint._src.handlers.json_checkpoint_handler.JsonCheckpointHandler._save_fn", fail)


@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize("verbosity", [absl.logging.WARNING, absl.logging.INFO])
def test_what_orbax_logs_of_a_failed_save_is_shown_only_if_asked_for(tmp_path, caplog, verbosity):
    config, before = tiny_config(), absl.logging.get_verbosity()
    absl.logging.set_verbosity(verbosity)
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(UserError, match="No space left on device"), checkpoints:  # which waits for the save
        checkpoints.save(random_state(config, step=1), config)
    absl.logging.set_verbosity(before)
    tracebacks = [record for record in caplog.records if record.exc_info]
    assert bool(tracebacks) == (verbosity == absl.logging.INFO)


def test_other_records_are_left_alone(caplog):
    with caplog.at_level(logging.WARNING):
        absl.logging.warning("of ours")
        logging.getLogger("asyncio").error("Task exception was never retrieved: of a notebook's")
        logging.getLogger("asyncio").error("Task exception was never retrieved: defined at /orbax/checkpoint.py")
    assert caplog.messages == ["of ours", "Task exception was never retrieved: of a notebook's"]


@pytest.mark.parametrize(("device", "answers"), [("null", 3), ("accel0", 0), ("vfio/0", 0)])
def test_libtpu_is_answered_only_where_there_is_no_tpu(tmp_path, monkeypatch, device, answers):
    (tmp_path / device).parent.mkdir(exist_ok=True)
    (tmp_path / device).touch()
    environment = {"TPU_NAME": "mine"}
    monkeypatch.setattr("os.environ", environment)
    quieten_libtpu(tmp_path)
    assert len(environment) == 1 + answers
    assert environment.get("TPU_WORKER_HOSTNAMES", "localhost") == "localhost"
