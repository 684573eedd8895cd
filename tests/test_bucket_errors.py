"""What a bucket's libraries raise is told apart: it may pass by itself, or a person must mend something."""

import errno
import itertools
import os
import socket
import time
from types import SimpleNamespace

import aiohttp
import pytest
import requests
from google.api_core import exceptions as google
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, RefreshError, TransportError
from support.tiny import random_state, save, tiny_config

from ddpm_jax.commands import endings
from ddpm_jax.errors import TransientError, UserError
from ddpm_jax.runtime import buckets, conditional, paths, storage
from ddpm_jax.training import checkpoint, restoring
from ddpm_jax.training.checkpoint import Checkpoints

pytestmark = pytest.mark.usefixtures("bucket", "quick_compilation")  # gcsfs finds the bucket when it is imported

NO_LOGIN = "no valid login to Google Cloud was found: run `gcloud auth application-default login`"


def chained(*errors):
    """The first of some exceptions, each raised from the next one."""
    for error, cause in itertools.pairwise(errors):
        error.__cause__ = cause
    return errors[0]


def http_error(code, message):
    """An answer of the bucket, as gcsfs says it."""
    from gcsfs.retry import HttpError

    return HttpError({"code": code, "message": message})


def unanswered():
    """The server that renews a login is silent, as google-auth says it."""
    return chained(RefreshError("refused"), TransportError("unreachable"), requests.ConnectionError("refused"))


def of_gcsfs(error):
    """A login that was not renewed, as gcsfs says it."""
    return chained(http_error(401, "Invalid Credentials"), error)


PASSING = {
    "503": lambda: http_error(503, "backend error"),
    "closed": aiohttp.ServerDisconnectedError,
    "unavailable": lambda: google.ServiceUnavailable("later"),
    "too many": lambda: google.TooManyRequests("later"),
    "no connection": lambda: requests.ConnectionError("refused"),
    "silent": TimeoutError,
    "silent login": unanswered,
    "silent login of gcsfs": lambda: of_gcsfs(unanswered()),
    "silent metadata": lambda: TransportError("Failed to retrieve the token from the metadata service"),
    "login, later": lambda: RefreshError("internal_failure", retryable=True),
}
LASTING = {
    "revoked": lambda: RefreshError("invalid_grant: Token has been expired or revoked."),
    "revoked, by gcsfs": lambda: of_gcsfs(RefreshError("invalid_grant")),
    "no account": lambda: chained(RefreshError("404"), TransportError("Status: 404", object())),
    "no login": lambda: DefaultCredentialsError("none was found"),
    "not renewed": lambda: http_error(401, "Invalid Credentials"),
    "bad request": lambda: http_error(400, "no such field"),
}


def as_os_error(error):
    """The error that `storage.py` raises in place of one of the libraries."""
    with pytest.raises(OSError) as caught, buckets.as_os_errors(paths.any_path("gs://bucket/x")):  # noqa: PT011
        raise error
    return caught.value


@pytest.mark.parametrize("made", PASSING.values(), ids=PASSING)
def test_a_bucket_that_does_not_answer_is_a_reason_to_start_again(made):
    assert buckets.may_pass(made())
    assert endings.exit_code(as_os_error(made())) == endings.START_AGAIN
    assert NO_LOGIN not in str(as_os_error(made()))


@pytest.mark.parametrize("made", LASTING.values(), ids=LASTING)
def test_what_a_person_must_mend_is_no_reason_to_start_again(made):
    assert not buckets.may_pass(made())
    error = as_os_error(made())
    assert endings.exit_code(error) == endings.MEND
    of_login = isinstance(made(), GoogleAuthError) or made().code == 401
    assert (NO_LOGIN in str(error)) == of_login


@pytest.fixture(scope="module")
def saved(bucket):
    """A run in the bucket with a checkpoint of step 2."""
    config = tiny_config(diffusion__num_timesteps=4)
    return paths.any_path(save(f"{bucket}/bucket_errors", config, steps=(2,)))


def raising(error):
    """A function that raises an error whatever it is given."""

    def fail(*args, **kwargs):
        raise error

    return fail


@pytest.mark.parametrize("made", [PASSING["503"], PASSING["closed"], PASSING["silent login"]])
def test_an_answer_that_fails_to_come_does_not_make_a_checkpoint_damaged(saved, made, capfd):
    """It came when the files were read once more, to see whether they can be."""
    with pytest.raises(TransientError, match=r"^cannot read checkpoint .*/2 now .*: start the same command again$"):
        restoring.newest_whole(saved / "checkpoints", raising(made()))
    assert "damaged" not in capfd.readouterr().err
    assert restoring.newest_whole(saved / "checkpoints", lambda step: step) == (2, 2)


@pytest.mark.parametrize(
    ("made", "code", "said"),
    [
        (PASSING["503"], 75, "the last good checkpoint is step 2; start the same command again"),
        (LASTING["bad request"], 1, "the last good checkpoint is step 2; fix the cause, and start again"),
    ],
)
def test_a_save_into_a_bucket_that_does_not_answer_says_to_start_again(saved, monkeypatch, made, code, said):
    with Checkpoints(saved) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "save", raising(made()))
        with pytest.raises(UserError, match=f"^cannot save a checkpoint in .*; {said}$") as caught:
            checkpoints.save(random_state(tiny_config(diffusion__num_timesteps=4), step=4), {})
    assert endings.exit_code(caught.value) == code


def test_a_bucket_that_is_down_hides_no_error(saved, monkeypatch, capsys):
    """Neither that of the save nor that which ends the run is replaced by the one of the listing."""
    with Checkpoints(saved) as checkpoints, monkeypatch.context() as down:
        down.setattr(checkpoint, "saved_steps", raising(UserError("cannot list the checkpoints")))
        down.setattr(checkpoints._publisher, "wait", raising(LASTING["bad request"]()))
        with pytest.raises(UserError, match=r"such field, 400; which earlier checkpoints there are cannot be listed"):
            checkpoints.wait()
        with pytest.raises(UserError, match="cannot list the checkpoints"):
            checkpoints.last_saved()
    assert [line.partition(" a ")[0] for line in capsys.readouterr().err.splitlines()] == ["warning: cannot save"]


@pytest.mark.parametrize(
    ("made", "code", "remedy"),
    [
        (PASSING["503"], 75, "start the same command again"),
        (lambda: OSError(errno.ETIMEDOUT, "timed out"), 75, "start the same command again"),
        (lambda: OSError(errno.EACCES, "denied"), 1, "choose another workdir"),
    ],
)
def test_another_workdir_is_no_remedy_for_a_silent_bucket(saved, monkeypatch, made, code, remedy):
    monkeypatch.setattr(Checkpoints, "_opened", raising(made()))
    with pytest.raises(UserError, match=f"^cannot write to {saved}: .*; {remedy}$") as caught:
        Checkpoints(saved)
    assert endings.exit_code(caught.value) == code


@pytest.fixture
def silent():
    """The address of a server that takes requests and never answers."""
    with socket.create_server(("localhost", 0)) as server:
        yield f"http://localhost:{server.getsockname()[1]}"


def test_a_request_that_hangs_is_given_up(silent, monkeypatch):
    """By gcsfs, after it has sent the request several times; without a limit it would wait for ever."""
    import fsspec
    import gcsfs.retry

    async def no_pause(seconds):
        pass

    monkeypatch.setattr(gcsfs.retry, "asyncio", SimpleNamespace(sleep=no_pause))
    system = fsspec.filesystem("gcs", endpoint_url=silent, token="anon")
    assert system.requests_timeout.sock_read == 60
    system.requests_timeout = aiohttp.ClientTimeout(sock_read=0.1)
    monkeypatch.setattr(storage, "gcs", lambda: system)
    path = paths.any_path("gs://bucket/x")
    for read in (storage.read_bytes, storage.objects_below):
        with pytest.raises(TimeoutError) as caught:
            read(path)
        assert endings.exit_code(caught.value) == endings.START_AGAIN
    assert os.environ["TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS"] == "60"  # which has a limit of its own


def test_a_conditional_write_that_hangs_is_given_up_in_time(silent, monkeypatch):
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage as library

    client = library.Client("test", credentials=AnonymousCredentials(), client_options={"api_endpoint": silent})
    monkeypatch.setattr(conditional, "_client", lambda: client)
    begun = time.monotonic()
    with pytest.raises(TimeoutError) as caught:
        conditional.write_if(paths.any_path("gs://bucket/x"), b"", 0, seconds=0.2)
    with pytest.raises(TimeoutError):
        conditional.read_versioned(paths.any_path("gs://bucket/x"), seconds=0.2)
    assert time.monotonic() - begun < 30  # the library waits for a minute
    assert endings.exit_code(caught.value) == endings.START_AGAIN


def test_a_line_whose_answer_is_lost_is_added_once(bucket, monkeypatch):
    """The library sends the request again, which fails on what the first one wrote; another process adds its own."""
    path, real, lost = paths.any_path(f"{bucket}/lines.jsonl"), conditional.write_if, []
    storage.write_bytes(path, b"cut off")

    def resent(path, content, generation):
        real(path, content, generation)
        if not lost:
            lost.append(path)
            conditional.add_line(path, "of another")
            raise conditional.ChangedError(errno.ESTALE, "changed")

    monkeypatch.setattr(conditional, "write_if", resent)
    for line in ("one", "two"):
        conditional.add_line(path, line)
    assert storage.read_text(path) == "cut off\none\nof another\ntwo\n"
