"""The annotation page's web server: for one person, on their own machine.

A random token is the first part of every path, and requests under a foreign host name are refused
(DNS rebinding), so no other web page can reach it. Files are served by name from a fixed list.
"""

from __future__ import annotations

import contextlib
import errno
import hmac
import ipaddress
import json
import secrets
import socket
import sys
import traceback
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any

from deformlearn import local_pages
from deformlearn.annotate.session import Session
from deformlearn.errors import InputError

_LARGEST_BODY = 1 << 20
"""Bytes of a request; the largest honest one places some thousand points."""

_FILES = {
    "": ("index.html", "text/html; charset=utf-8"),
    "annotate.css": ("annotate.css", "text/css; charset=utf-8"),
    "annotate.js": ("annotate.js", "text/javascript; charset=utf-8"),
    "panels.js": ("panels.js", "text/javascript; charset=utf-8"),
}
"""Path under the token: file of assets/annotate and its media type."""

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The page may load from this server only, whatever stands in it."""

_IDLE_SECONDS = 60
_MOST_DIGITS = 9


class Server(ThreadingHTTPServer):
    """Serves one session; `address` is what to open in a browser."""

    # Threads are waited for: one that is killed at the end of the process, in the middle of PyTorch,
    # takes the process down with it.
    daemon_threads = False

    def __init__(self, session: Session, host: str, port: int) -> None:
        self._connections: set[socket.socket] = set()
        self.session = session
        self.token = secrets.token_urlsafe(16)
        self.host = host
        with contextlib.suppress(ValueError):
            if ipaddress.ip_address(host).version == 6:
                self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
                raise InputError(
                    f"port {port} is in use; choose another with --port (0 finds a free one)"
                ) from error
            raise InputError(f"cannot serve at {host}:{port}: {error}; give another") from error

    @property
    def port(self) -> int:
        """The port listened on."""
        return int(self.server_address[1])

    @property
    def address(self) -> str:
        """What to open in a browser on this machine."""
        return local_pages.address(self.host, self.port, f"/{self.token}/")

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a connection in a thread of its own."""
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        self._connections.discard(request)
        super().shutdown_request(request)

    def stop(self) -> None:
        """Serve no more; what is being answered is finished, idle connections are closed."""
        self.shutdown()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RD)
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report what broke a request; a browser that hangs up is nothing to report."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class _RefusedError(Exception):
    """An answer other than 200."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "deformlearn", ""
    timeout = _IDLE_SECONDS
    server: Server

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a line for every click would bury the address."""

    def _answer(self, respond: Callable[[], tuple[str, bytes]]) -> None:
        try:
            self._check_host()
            kind, content = respond()
            self._send(HTTPStatus.OK, kind, content)
        except _RefusedError as refused:
            self._send_error(refused.status, str(refused))
        except InputError as error:
            self._send_error(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        except ConnectionError:
            self.close_connection = True
        except Exception as error:
            traceback.print_exc()
            reason = f"{type(error).__name__}: {error}"
            self._send_error(HTTPStatus.INTERNAL_SERVER_ERROR, f"the server failed ({reason})")

    def _get(self) -> tuple[str, bytes]:
        path, session = self._path(), self.server.session
        if path in _FILES:
            name, kind = _FILES[path]
            file = resources.files("deformlearn").joinpath("assets", "annotate", name)
            return kind, file.read_bytes()
        if path == "api/session":
            return _json(session.overview())
        if (number := _number(path, "api/image/")) is not None:
            return _json(session.image(number))
        if (number := _number(path, "photo/")) is not None:
            return session.photo(number)
        raise _RefusedError(HTTPStatus.NOT_FOUND, f"there is no {path[:60]!r} here")

    def _post(self) -> tuple[str, bytes]:
        request = self._request()
        path, session = self._path(), self.server.session
        plain = {"api/body": session.body, "api/pick": session.pick}
        if path in plain:
            return _json(plain[path](request))
        of_image = {
            "api/edit/": session.edit,
            "api/suggest/": session.suggest,
            "api/overlay/": session.overlay,
        }
        for prefix, answer in of_image.items():
            if (number := _number(path, prefix)) is not None:
                return _json(answer(number, request))
        raise _RefusedError(HTTPStatus.NOT_FOUND, f"there is no {path[:60]!r} here")

    def _check_host(self) -> None:
        host = self.headers.get("Host", "")
        if not local_pages.is_honest_name(host, self.server.host):
            self.close_connection = True
            raise _RefusedError(
                HTTPStatus.FORBIDDEN, "this server is not known under that host name"
            )
        origin = self.headers.get("Origin")
        if origin is not None and origin != f"http://{host}":
            self.close_connection = True
            raise _RefusedError(HTTPStatus.FORBIDDEN, "requests from other pages are refused")

    def _path(self) -> str:
        """The path under the token; without the right token nothing is told."""
        token, _, path = self.path.partition("?")[0].removeprefix("/").partition("/")
        if not hmac.compare_digest(token.encode(), self.server.token.encode()):
            self.close_connection = True
            raise _RefusedError(
                HTTPStatus.FORBIDDEN,
                "open the address that deformlearn annotate printed, token and all",
            )
        return path

    def _request(self) -> Any:
        """The json body of a POST; anything else is refused, unread where it is too long."""
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit() and len(length) <= _MOST_DIGITS):
            self.close_connection = True
            raise _RefusedError(HTTPStatus.LENGTH_REQUIRED, "wanted a body with a Content-Length")
        if int(length) > _LARGEST_BODY:
            self.close_connection = True
            raise _RefusedError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a request holds up to {_LARGEST_BODY} bytes"
            )
        content = self.rfile.read(int(length))
        self._path()
        if self.headers.get_content_type() != "application/json":
            raise _RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "wanted application/json")
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise _RefusedError(HTTPStatus.BAD_REQUEST, f"not json: {str(error)[:80]}") from error

    def _send_error(self, status: HTTPStatus, message: str) -> None:
        kind, content = _json({"error": " ".join(message.split())})
        self._send(status, kind, content)

    def _send(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Content-Type-Options", "nosniff")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)


def _json(value: Any) -> tuple[str, bytes]:
    return "application/json", json.dumps(value, allow_nan=False).encode()


def _number(path: str, prefix: str) -> int | None:
    """The number after a prefix; None for any other path."""
    digits = path.removeprefix(prefix)
    plain = digits.isascii() and digits.isdigit() and len(digits) <= _MOST_DIGITS
    return int(digits) if path.startswith(prefix) and plain else None
