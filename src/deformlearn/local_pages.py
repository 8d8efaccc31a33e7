"""Pages that a command serves to the browser of its own user: where they are, and who may ask for them."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import socket
import sys
import threading


def address(host: str, port: int, path: str = "") -> str:
    """What to open in a browser on this machine, for a server that listens at `host`."""
    anywhere = host in ("", "0.0.0.0", "::")
    name = "127.0.0.1" if anywhere else f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}{path}"


def is_honest_name(host_header: str, host: str) -> bool:
    """Whether a Host header is an honest name of the server that listens at `host`.

    A rebinding page comes under its own domain's name, so addresses and this machine's own names
    are safe, whatever the port, which a tunnel may change.
    """
    name = re.sub(r":\d{1,5}$", "", host_header.strip()).strip("[]").lower()
    if name in ("localhost", host.lower(), socket.gethostname().lower()):
        return True
    try:
        asked = ipaddress.ip_address(name)
    except ValueError:
        return False
    return asked.is_loopback or host not in ("127.0.0.1", "localhost", "::1")


def has_display() -> bool:
    """Whether a browser can be opened on this machine."""
    if sys.platform in ("darwin", "win32"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def tunnel(port: int) -> str:
    """How to see, from another machine, what is served here."""
    return (
        f"From another machine: ssh -L {port}:127.0.0.1:{port} {socket.gethostname()}, "
        f"then open the same address there."
    )


def wait_for_interrupt() -> None:
    """Return when the user presses Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()
