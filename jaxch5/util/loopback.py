"""Runs a small server, built on the standard library, for pages that only this machine may see."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from jaxch5.errors import CheckpointError, ConfigError, Jaxch5Error

# Only this machine can reach this address.
HOST = "127.0.0.1"
# Host names that a request may use. A request with any other name may come from a page of another
# site.
NAMES = [HOST, "localhost"]
# Maximum number of bytes that a page may send.
LONGEST = 1_000_000
# Seconds that a connection may be idle.
IDLE_SECONDS = 60
HEADERS = {
    # The page loads only what this server sends, runs no inline script, and is shown in no frame.
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; script-src 'self'; "
    "style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
TEXT, JSON = "text/plain; charset=utf-8", "application/json"


class Reply(NamedTuple):
    """Holds an answer: content, its type, a status, and how many seconds to cache the content."""

    content: bytes
    kind: str = TEXT
    status: int = 200
    seconds: int = 0


# A function that takes the requested path and the posted value, which is None for GET, and returns
# a reply.
Respond = Callable[[str, Any], Reply]


def listening(port: int) -> socket.socket:
    """Opens a socket that accepts connections from this machine.

    Raises:
        ConfigError: The port is not available.
    """
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise ConfigError(
            f"port = {port}: is not available ({error.strerror}); choose another --port, or 0 for "
            "any free one"
        ) from None


def serve(server: socket.socket, respond: Respond) -> None:
    """Answers requests, with a thread for each connection, until the caller is interrupted.

    A request that names another host is refused, so that no page of another site can read anything
    by making that site's name resolve to this machine. A post from a page of another site is
    refused as well, because of its origin. Besides, such a page could post JSON only with a
    permission (CORS) that this server never gives.

    Args:
        server: Socket from `listening`.
        respond: Function that answers; it raises a `CheckpointError` if it cannot write, and
            another `Jaxch5Error` for a bad request.
    """
    port = server.getsockname()[1]
    hosts = {f"{name}:{port}" for name in NAMES} | {name for name in NAMES if port == 80}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = IDLE_SECONDS

        def do_GET(self) -> None:
            self._respond(None)

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not length.isdecimal() or int(length) > LONGEST:
                self.close_connection = True
                return self._send(
                    Reply(b"the request is too long, or of unknown length", status=413)
                )
            body = self.rfile.read(int(length))
            origin = self.headers.get("Origin")
            if origin is not None and origin.removeprefix("http://") not in hosts:
                return self._send(Reply(b"only pages from this server may post", status=403))
            if self.headers.get_content_type() != JSON:
                return self._send(Reply(b"JSON is expected", status=415))
            try:
                posted = json.loads(body)
            except (ValueError, RecursionError):
                return self._send(Reply(b"the request is not valid JSON", status=400))
            self._respond(posted)

        def _respond(self, posted: Any) -> None:
            if self.headers.get("Host") not in hosts:
                return self._send(
                    Reply(b"only requests to 127.0.0.1 or localhost are served", status=400)
                )
            try:
                reply = respond(self.path, posted)
            except Jaxch5Error as error:
                # What cannot be written now can be sent again; a bad request stays bad.
                status = 507 if isinstance(error, CheckpointError) else 422
                reply = Reply(str(error).encode("utf-8", "backslashreplace"), status=status)
            except Exception:
                self._send(Reply(b"jaxch5 has a defect; the terminal shows where", status=500))
                raise
            self._send(reply)

        def _send(self, reply: Reply) -> None:
            self.send_response(reply.status)
            cache = f"private, max-age={reply.seconds}" if reply.seconds else "no-store"
            own = {"Content-Type": reply.kind, "Content-Length": len(reply.content)}
            for name, value in (HEADERS | own | {"Cache-Control": cache}).items():
                self.send_header(name, str(value))
            # A browser that has disconnected needs no answer.
            with suppress(ConnectionError):
                self.end_headers()
                self.wfile.write(reply.content)

        def version_string(self) -> str:
            return "jaxch5"

        def log_message(self, format: str, *args: Any) -> None:
            """Logs nothing: the terminal is for what went wrong."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            # A browser that has disconnected is not an error.
            if not isinstance(sys.exception(), ConnectionError):
                super().handle_error(request, client_address)

    pages = Server((HOST, port), Handler, bind_and_activate=False)
    pages.socket.close()
    pages.socket = server
    # A page requests several pictures at once, so many connections may be waiting.
    server.listen(128)
    pages.serve_forever(poll_interval=0.1)
