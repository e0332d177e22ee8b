"""A proxy before the simulated API: counts requests, and serves connections at a fixed rate."""

import http.client
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import cdrlake

_CHUNK = 16 << 10


class Proxy(ThreadingHTTPServer):
    """Passes requests on to `api`."""

    daemon_threads = True

    def __init__(self, api: cdrlake.Simulator) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.api = api
        #: Bytes a second of one connection; without a limit if 0.
        self.rate = 0
        #: Requests whose target has this text are answered with an error.
        self.refused: str | None = None
        #: The target of each request.
        self.requests: list[str] = []

    @property
    def simulator(self) -> cdrlake.Simulator:
        """The proxy in place of the simulator."""
        return cdrlake.Simulator(f"http://127.0.0.1:{self.server_port}", self.api.key)

    def slices(self) -> set[tuple[str, str, str]]:
        """The slices that were asked for: direction, first and last day."""
        queries = [parse_qs(urlsplit(it).query) for it in self.requests]
        return {(it["type"][0], it["from"][0], it["to"][0]) for it in queries if "type" in it}


class _Handler(BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        if self.server.refused is not None and self.server.refused in self.path:
            self.send_error(500)
            return
        upstream = http.client.HTTPConnection(urlsplit(self.server.api.url).netloc)
        headers = {name: value for name, value in self.headers.items() if name != "Host"}
        upstream.request("GET", self.path, headers=headers)
        answer = upstream.getresponse()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            while chunk := answer.read(_CHUNK):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                if self.server.rate:
                    time.sleep(len(chunk) / self.server.rate)
            self.wfile.write(b"0\r\n\r\n")
        except ConnectionError:
            self.close_connection = True
        finally:
            upstream.close()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextmanager
def proxy(api: cdrlake.Simulator) -> Iterator[Proxy]:
    """A proxy before `api`."""
    with Proxy(api) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
