"""What libraries print is kept from the user of ours, and from nobody else."""

import asyncio
import gc
import io
import logging
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import absl.logging
import jax
import orbax.checkpoint as ocp
import pytest
import urllib3
from orbax.checkpoint._src import asyncio_utils
from support.tiny import random_state, tiny_config

import ddpm_jax as dj
from ddpm_jax.config import to_json
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import devices
from ddpm_jax.runtime.quiet import quiet_pillow, quieten_gcsfs, quieten_libtpu, quieten_urllib3, unless_loaded
from ddpm_jax.training.checkpoint import Checkpoints


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
        checkpoints.save(random_state(config, step=1), to_json(config))
    absl.logging.set_verbosity(before)
    tracebacks = [record for record in caplog.records if record.exc_info]
    assert bool(tracebacks) == (verbosity == absl.logging.INFO)


def test_what_is_left_of_a_failed_upload_is_not_shown_and_all_else_is(monkeypatch):
    """gcsfs leaves a view of the content in a cycle; Python 3.13 complains when it collects the two."""
    shown = []
    monkeypatch.setattr(sys, "unraisablehook", shown.append)
    quieten_gcsfs()
    content = io.BytesIO(b"content")
    left = [content, content.getbuffer()]
    left.append(left)
    del left, content
    gc.collect()
    failed, other = (SimpleNamespace(exc_type=BufferError, object=thing) for thing in (io.BytesIO(), bytearray()))
    closed = SimpleNamespace(exc_type=ValueError, object=io.BytesIO())
    for unraisable in (failed, other, closed):
        sys.unraisablehook(unraisable)
    assert shown == [other, closed]


@pytest.mark.parametrize(("path", "shown"), [("/download/storage/v1/b/bucket/o/name", False), ("/status", True)])
def test_headers_of_a_bucket_that_were_cut_off_are_not_shown_and_all_else_is(caplog, path, shown):
    """urllib3 warns, with a traceback, of an answer that it returns as well."""
    quieten_urllib3()

    class Cut(BaseHTTPRequestHandler):
        def do_GET(self):
            self.wfile.write(b"HTTP/1.1 200 OK\r\nx-goog-g")

        def log_message(self, *arguments):
            pass

    with HTTPServer(("localhost", 0), Cut) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        url = f"http://localhost:{server.server_port}{path}"
        assert urllib3.PoolManager().request("GET", url, retries=False).status == 200
        thread.join()
    assert any(record.name.startswith("urllib3") for record in caplog.records if record.exc_info) == shown


def test_records_of_orbax_are_dropped_and_others_left_alone(caplog):
    """Also those of a folder or a task whose name has Orbax in it."""
    module = f"{Path(ocp.__file__).parent}/_src/serialization.py"
    unheard = "Task exception was never retrieved\nfuture: <Task finished coro=<{}() done, defined at {}:7>>"
    shown = [unheard.format("orbax_demo", "/home/me/orbax/demo.py"), f"slow callback, defined at {module}:7"]
    with caplog.at_level(logging.WARNING):
        for text in (*shown, unheard.format("_write", module)):
            logging.getLogger("asyncio").error(text)
        for path in ("/home/me/orbax_demo.py", module):
            record = logging.LogRecord("absl", logging.WARNING, path, 1, f"from {path}", (), None)
            absl.logging.get_absl_logger().handle(record)
    assert caplog.messages == [*shown, "from /home/me/orbax_demo.py"]


def test_what_orbax_has_under_way_ends_before_its_loop_and_other_loops_are_as_they_were(tmp_path):
    ended = []

    async def late():
        await asyncio.sleep(0.01)
        ended.append(True)

    async def early():
        raise OSError("full")

    async def both():
        await asyncio.gather(late(), early())

    with Checkpoints(tmp_path):
        assert asyncio.new_event_loop is asyncio.events.new_event_loop
        with pytest.raises(OSError, match="full"):
            asyncio_utils.run_sync(both())
    assert ended == [True]


def test_what_ends_after_orbax_has_closed_its_loop_is_dropped(tmp_path):
    """A write whose task was cancelled tells the loop of its end, from another thread and at any time."""
    with Checkpoints(tmp_path):
        loop = asyncio_utils.asyncio.new_event_loop()
    loop.close()
    loop.call_soon_threadsafe(pytest.fail, "called")
    other = asyncio.new_event_loop()
    other.close()
    with pytest.raises(RuntimeError, match="closed"):
        other.call_soon_threadsafe(pytest.fail, "called")


def warned(*modules):
    """Which of some modules' warnings are shown."""
    with warnings.catch_warnings(record=True) as caught:
        for module in modules:
            warnings.warn_explicit(module, UserWarning, "x.py", 1, module=module)
    return [str(warning.message) for warning in caught]


@pytest.mark.filterwarnings("always")
def test_pillow_warns_of_nothing_while_we_decode_and_otherwise_as_before():
    """In another thread it is not we who decode."""
    assert warned("PIL.Image", "mine") == ["PIL.Image", "mine"]
    with quiet_pillow(), quiet_pillow():
        pass
    with quiet_pillow():
        assert warned("PIL.Image", "mine") == ["mine"]
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(warned, "PIL.Image").result() == ["PIL.Image"]
    assert warned("PIL.Image", "mine") == ["PIL.Image", "mine"]


def test_a_filter_that_is_set_later_changes_nothing_while_we_decode():
    with warnings.catch_warnings():
        with quiet_pillow():
            pass
        warnings.simplefilter("error")
        with quiet_pillow():
            assert warned("PIL.Image") == []
        with pytest.raises(UserWarning):
            warned("PIL.Image")


def test_pillow_logs_nothing_while_we_decode_and_otherwise_as_before(caplog):
    log = logging.getLogger("PIL.TiffImagePlugin")
    with quiet_pillow():
        log.error("odd")
    log.error("odd of another's")
    assert caplog.messages == ["odd of another's"]


def test_libtpu_is_answered_before_a_library_s_first_question_for_devices(monkeypatch):
    asked = []
    monkeypatch.setattr(devices, "quieten_libtpu", lambda: asked.append("libtpu"))
    monkeypatch.setattr(jax, "devices", lambda: asked.append("jax"))
    devices.all_devices()
    assert asked == ["libtpu", "jax"]


@pytest.mark.parametrize(
    "job",
    [lambda path: dj.Run(path), lambda path: dj.train(tiny_config(), path), lambda path: dj.import_weights(path, "x")],
)
def test_a_job_asks_for_devices_by_the_one_function_first(job, monkeypatch, tmp_path):
    """Before anything else makes JAX look for them."""

    class FirstError(Exception):
        pass

    def first():
        raise FirstError

    def too_early():
        if threading.current_thread() is threading.main_thread():  # the others are Orbax's, of earlier tests
            pytest.fail("JAX looked for devices")
        return 0

    monkeypatch.setattr(devices, "all_devices", first)
    monkeypatch.setattr("ddpm_jax.convert.incoming.all_devices", first)
    monkeypatch.setattr("ddpm_jax.jobs.train.all_devices", first)
    monkeypatch.setattr(jax, "process_count", lambda: too_early() or 1)
    monkeypatch.setattr(jax, "process_index", too_early)
    with pytest.raises(FirstError):
        job(tmp_path)


@pytest.mark.parametrize(
    ("device", "answers"),
    [("null", 3), ("accel0", 0), ("vfio/0", 0), ("vfio/17", 0), ("vfio/vfio", 3), ("accel/accel0", 3)],
)
def test_libtpu_is_answered_only_where_there_is_no_tpu(tmp_path, monkeypatch, device, answers):
    (tmp_path / device).parent.mkdir(exist_ok=True)
    (tmp_path / device).touch()
    environment = {"TPU_NAME": "mine"}
    monkeypatch.setattr("os.environ", environment)
    quieten_libtpu(tmp_path)
    assert len(environment) == 1 + answers
    assert environment.get("TPU_WORKER_HOSTNAMES", "localhost") == "localhost"


def test_a_package_is_hidden_only_from_what_is_imported_meanwhile(monkeypatch):
    """If it is loaded already, it stays as it is."""
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with unless_loaded("colorsys"), pytest.raises(ImportError):
        import colorsys
    import colorsys

    with unless_loaded("colorsys"):
        assert sys.modules["colorsys"] is colorsys
    assert sys.modules["colorsys"] is colorsys
