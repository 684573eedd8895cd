"""Google Cloud Storage on the loopback address, as a program: `python emulator.py PORT`, with the bucket "bucket".

gcp-storage-emulator lacks what TensorStore and a lease need, which is added here at run time: the generation of an
object in the answer to a download, conditional uploads and deletions (`ifGenerationMatch`), and requests that do not
wait for a client that is stopped in the middle of its own.
"""

import io
import sys
import threading
from functools import partial
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from typing import Any

from gcp_storage_emulator import server
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import buckets, objects
from gcp_storage_emulator.storage import Storage

_ONE_AT_A_TIME = threading.Lock()


class Handler(server.RequestHandler):
    """Reads a request as a whole, handles one at a time, and then sends the answer; a connection serves many."""

    protocol_version = "HTTP/1.1"

    def handle_one_request(self) -> None:
        """Handles a request; a client that is killed meanwhile leaves no trace."""
        try:
            super().handle_one_request()
        except (ConnectionError, ValueError):
            self.close_connection = True

    def _answer(self, method: str) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:
            raise ConnectionResetError
        socket_in, socket_out = self.rfile, self.wfile
        self.rfile, self.wfile = io.BytesIO(body), io.BytesIO()
        try:
            with _ONE_AT_A_TIME:
                server.Router(self).handle(method)
            answer = self.wfile.getvalue()
        finally:
            self.rfile, self.wfile = socket_in, socket_out
        self.wfile.write(answer)

    do_GET, do_POST, do_DELETE, do_PUT, do_PATCH = (  # noqa: N815 -- names of the base class
        (lambda self, method=method: self._answer(method))
        for method in (server.GET, server.POST, server.DELETE, server.PUT, server.PATCH)
    )


def generation(request: Any, storage: Storage, name: str) -> str:
    """The generation of an object, "0" where there is none."""
    try:
        return str(storage.get_file_obj(request.params["bucket_name"], name)["generation"])
    except NotFound:
        return "0"


def matched(handle: Any, name_of: Any) -> Any:
    """A handler that answers 412 where the object has another generation than the request asks for."""

    def conditional(request: Any, response: Any, storage: Storage, *args: Any, **kwargs: Any) -> Any:
        wanted = request.query.get("ifGenerationMatch")
        if wanted and generation(request, storage, name_of(request)) != wanted[0]:
            response.status = HTTPStatus.PRECONDITION_FAILED
            response.json({"error": {"code": 412, "message": "conditionNotMet"}})
            return None
        return handle(request, response, storage, *args, **kwargs)

    return conditional


def downloaded(handle: Any) -> Any:
    """A handler of downloads that says the generation of the object."""

    def with_generation(request: Any, response: Any, storage: Storage, *args: Any, **kwargs: Any) -> Any:
        response["x-goog-generation"] = generation(request, storage, request.params["object_id"])
        return handle(request, response, storage, *args, **kwargs)

    return with_generation


def _uploaded(request: Any) -> str:
    """The name of the object that a request uploads."""
    return request.query["name"][0] if "name" in request.query else request.data["meta"]["name"]


def server_at(port: int, handler: type[Handler] = Handler) -> ThreadingHTTPServer:
    """A server of this process on a port, 0 for a free one, that is yet to `serve_forever`; its bucket is empty."""
    replaced = {
        objects.insert: matched(objects.insert, _uploaded),
        objects.delete: matched(objects.delete, lambda request: request.params["object_id"]),
        objects.download: downloaded(objects.download),
    }
    objects.insert, objects.download = replaced[objects.insert], replaced[objects.download]
    server.HANDLERS = tuple(
        (pattern, {method: replaced.get(handle, handle) for method, handle in handlers.items()})
        for pattern, handlers in server.HANDLERS
    )
    storage = Storage(use_memory_fs=True)
    storage._write_config_to_file = lambda: None  # it would describe all objects again whenever one changes
    buckets.create_bucket("bucket", storage)
    storage.buckets["bucket"]["softDeletePolicy"] = {"retentionDurationSeconds": "0"}  # what is deleted is gone
    httpd = ThreadingHTTPServer(("localhost", port), partial(handler, storage))
    httpd.daemon_threads = True
    return httpd


def main(port: int) -> None:
    """Serves until the process is ended."""
    with server_at(port) as httpd:
        httpd.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]))
