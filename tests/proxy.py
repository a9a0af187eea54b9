"""An HTTP proxy for tests: ``python proxy.py FOLDER PORT LOG``.

What FOLDER holds for a host (FOLDER/HOST/PATH) it serves; of other hosts it knows only that nothing changed
since a client last looked. It writes one line per request: status, user agent, address.
"""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path
    log: Path

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        file = self.folder / (parts.hostname or "none") / unquote(parts.path).lstrip("/")
        if file.is_file():
            status, content = 200, file.read_bytes()
        else:
            status, content = (304 if "If-Modified-Since" in self.headers else 404), b""
        with self.log.open("a") as log:
            log.write(f"{status} {self.headers.get('User-Agent')} {self.path}\n")
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    Proxy.folder, Proxy.log = Path(sys.argv[1]), Path(sys.argv[3])
    with ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Proxy) as server:
        print("listening", flush=True)
        server.serve_forever()
