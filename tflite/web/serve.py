#!/usr/bin/env python3
"""Serves the built page on this machine. Needs the standard library, nothing else.

    python serve.py [--port 8000] [--dist DIRECTORY]

A phone sees the page at this machine's address only by https; see README.md.
"""

import argparse
import sys
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

DIST = Path(__file__).resolve().parent / "dist"


class Handler(SimpleHTTPRequestHandler):
    """Files of `directory`, and those of `mounts` by the first part of the path."""

    # Not left to the machine's own table: a module of another type is refused, wasm of another type loads twice.
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".js": "text/javascript",
        ".json": "application/json",
        ".wasm": "application/wasm",
        ".webmanifest": "application/manifest+json",
        ".svg": "image/svg+xml",
    }

    def __init__(self, *arguments, mounts=None, **options):
        self.mounts = mounts or {}
        super().__init__(*arguments, **options)

    def translate_path(self, path):
        """The file behind a path; a mounted folder stands outside of the page's own."""
        first, _, rest = unquote(urlsplit(path).path).lstrip("/").partition("/")
        if first in self.mounts and ".." not in Path(rest).parts:
            return str(Path(self.mounts[first]) / rest)
        return super().translate_path(path)

    def end_headers(self):
        """Isolation gives the page a clock of 5 instead of 100 microseconds; a new build shows at once."""
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, *_):
        """Says nothing of each request."""


class Server(ThreadingHTTPServer):
    """Whose connections a browser may drop at any time."""

    daemon_threads = True

    def handle_error(self, request, client_address):
        """Reports what is not just a browser that went away."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def check_dist(dist):
    """Raises ValueError if the page was not built."""
    if not (dist / "index.html").is_file():
        raise ValueError("The page must be built first. Received: no dist/index.html. Run `make web`.")


@contextmanager
def serving(dist=DIST, mounts=None, port=0):
    """Serves while the context lasts, at a free port unless told; gives the address of the page."""
    check_dist(dist)
    with Server(("127.0.0.1", port), partial(Handler, directory=str(dist), mounts=mounts)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def main():
    """Serves until it is interrupted."""
    parser = argparse.ArgumentParser(description="Serve the built page on this machine.")
    parser.add_argument("--port", type=int, default=8000, help="default 8000")
    parser.add_argument("--dist", type=Path, default=DIST, metavar="DIRECTORY", help="the built page (default: dist)")
    options = parser.parse_args()
    try:
        with serving(options.dist, port=options.port) as address:
            print(f"{address} (Ctrl+C ends it)", flush=True)
            threading.Event().wait()
    except (OSError, ValueError, OverflowError) as error:
        print(f"serve.py: cannot serve: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
