"""A mirror of the package archive that breaks off what a test tells it to."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Mirror(BaseHTTPRequestHandler):
    """Passes on what the real archive has, but breaks off what ``cut`` is in the path of."""

    real: str
    cut: str | None = None

    def do_GET(self) -> None:
        if self.cut and self.cut in self.path:
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"x" * 1000)
        else:
            try:
                with urllib.request.urlopen(self.real + self.path) as response:
                    status, content = 200, response.read()
            except urllib.error.HTTPError as error:
                error.close()
                status, content = error.code, b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving_mirror(home: Path) -> Iterator[str]:
    """Its address. It mirrors what the trixie bootstrap of a BAKER_HOME came from."""
    sources = (home / "local/apt/debian-trixie-x86_64-default/etc/sources.list").read_text()
    Mirror.real, Mirror.cut = sources.split()[2].removesuffix("/debian"), None
    with ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
