"""What a bucket's libraries raise is told apart: it may pass by itself, or a person must mend something."""

import aiohttp
import pytest
import requests
from gcsfs.retry import HttpError
from google.api_core import exceptions as google
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, RefreshError, TransportError

from ddpm_jax.commands import endings
from ddpm_jax.runtime import buckets, paths

NO_LOGIN = "no valid login to Google Cloud was found: run `gcloud auth application-default login`"


def chained(*errors):
    """The first of some exceptions, each raised from the next one."""
    for error, cause in zip(errors, errors[1:], strict=False):
        error.__cause__ = cause
    return errors[0]


def unanswered():
    """The server that renews a login is silent, as google-auth says it."""
    return chained(RefreshError("refused"), TransportError("unreachable"), requests.ConnectionError("refused"))


def of_gcsfs(error):
    """A login that was not renewed, as gcsfs says it."""
    return chained(HttpError({"code": 401, "message": "Invalid Credentials"}), error)


PASSING = {
    "503": lambda: HttpError({"code": 503, "message": "backend error"}),
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
    "not renewed": lambda: HttpError({"code": 401, "message": "Invalid Credentials"}),
    "bad request": lambda: HttpError({"code": 400, "message": "no such field"}),
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
