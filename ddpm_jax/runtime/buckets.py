"""Access to Google Cloud Storage: the libraries that it needs, and their errors as those of the system.

`storage.py` reads and writes files with it, `conditional.py` writes objects of a known generation.
"""

import contextlib
import errno
import functools
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from etils import epath

from ddpm_jax.errors import UserError, causes, first_line, is_transient
from ddpm_jax.runtime.quiet import quieten_gcsfs, quieten_urllib3

AnyPath: TypeAlias = Path | epath.Path
"""A path on a disk, or in a bucket."""
_SILENCE = 60  # seconds without a byte after which a request is sent again


def missing_packages() -> list[str]:
    """The packages that buckets need and that are not installed."""
    return [name for name, module in (("gcsfs", "gcsfs"), ("google-cloud-storage", "google.cloud.storage"))
            if not _importable(module)]  # fmt: skip


@functools.cache
def _importable(module: str) -> bool:
    """Whether a module is installed, without importing it."""
    from importlib.util import find_spec

    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it is in
        return False


@functools.cache
def prepare_buckets() -> None:
    """Has every part of the program read buckets by gcsfs, whose listings are never kept: another process writes too.

    epath would use TensorFlow where that is installed, gcsfs and fsspec would print what they raise, and neither gcsfs
    nor TensorStore would ever give up a connection on which nothing comes.
    """
    import aiohttp
    import fsspec.config

    quieten_gcsfs()
    quieten_urllib3()
    for library in ("gcsfs", "fsspec"):
        logging.getLogger(library).setLevel(logging.CRITICAL)  # they log tracebacks of errors that they raise as well
    os.environ.setdefault("EPATH_USE_TF", "false")
    os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", str(_SILENCE))
    os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES", "1")  # a second
    given_up = aiohttp.ClientTimeout(sock_connect=_SILENCE, sock_read=_SILENCE)
    for name in ("gs", "gcs"):
        options = {"use_listings_cache": False, "requests_timeout": given_up}
        fsspec.config.conf[name] = {**options, **fsspec.config.conf.get(name, {})}


def gcs() -> Any:
    """The file system of buckets, the same as epath's."""
    import fsspec

    return fsspec.filesystem("gcs", finalize_on_close=True)


@contextlib.contextmanager
def as_os_errors(path: AnyPath, *, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turns the errors of the libraries for buckets into an `OSError`; those of a disk are such already.

    Args:
      path: the path that is read or written.
      passing: kinds of errors that stay as they are.
    """
    if not isinstance(path, Path):
        prepare_buckets()  # also in a process that was started to read images
    try:
        yield
    except (UserError, *passing):
        raise
    except Exception as error:
        if isinstance(path, Path) or (isinstance(error, OSError) and not may_pass(error)):
            raise
        raise OSError(errno.ETIMEDOUT if may_pass(error) else errno.EIO, _reason(error), str(path)) from error


def may_pass(error: BaseException) -> bool:
    """Whether the bucket did not answer, or asked to come again later, after the libraries have tried for a while.

    A login passes if the server that renews it did not answer, and not if it refused.
    """
    import aiohttp
    import requests
    from gcsfs.retry import is_retriable
    from google.api_core import exceptions

    if login := _of_login(error):
        return any(_unanswered(cause) for cause in login)
    of_google = exceptions.ServerError | exceptions.TooManyRequests | exceptions.RetryError
    of_network = requests.ConnectionError | requests.Timeout | aiohttp.ClientError | TimeoutError
    return isinstance(error, of_google | of_network) or is_retriable(error)


def did_not_answer(path: AnyPath, error: BaseException) -> bool:
    """Whether an exception came from the storage of a path, which may answer if the same command is started again."""
    return is_transient(error) or (not isinstance(path, Path) and any(may_pass(cause) for cause in causes(error)))


def _of_login(error: BaseException) -> list[BaseException]:
    """The causes of an exception that are about the login; gcsfs raises its error 401 from them."""
    from gcsfs.retry import HttpError
    from google.auth.exceptions import GoogleAuthError

    return [
        cause for cause in causes(error)
        if isinstance(cause, GoogleAuthError) or (isinstance(cause, HttpError) and str(cause.code) == "401")
    ]  # fmt: skip


def _unanswered(error: BaseException) -> bool:
    """Whether an exception about the login says that no server answered; an answer would be its second argument."""
    from google.auth.exceptions import GoogleAuthError, TimeoutError, TransportError

    if not isinstance(error, GoogleAuthError):
        return False
    return error.retryable or (isinstance(error, TransportError | TimeoutError) and len(error.args) < 2)


def _reason(error: BaseException) -> str:
    """Why a bucket cannot be used, in a few words, with a remedy if it is known."""
    if _of_login(error) and not may_pass(error):
        return "no valid login to Google Cloud was found: run `gcloud auth application-default login`"
    return first_line(error)
