"""Who may talk to the viewer: pages that it served itself, under an honest name of this machine.

Browsers let any page open a socket to 127.0.0.1. Without a check, any site that is visited while the
viewer runs could read the photographs.
"""

from __future__ import annotations

from urllib.parse import urlsplit

import viser
from viser.infra import WebsockClientConnection

from deformlearn.local_pages import is_honest_name


def only_from_own_pages(server: viser.ViserServer, host: str) -> None:
    """Hang up on every page that another site served, before it is sent anything."""
    inner = server._websock_server

    async def check(connection: WebsockClientConnection) -> None:
        live = inner._live_connections[connection.client_id]
        headers = live.request.headers if live.request is not None else {}
        if not is_own(headers.get("Origin"), headers.get("Host", ""), host):
            await live.close(1008, "this page was not served by the viewer")

    inner.on_client_connect(check)


def is_own(origin: str | None, asked: str, host: str) -> bool:
    """Whether a request with these headers comes from a page of a server at `host`.

    A program that is no browser sends no origin, and could read the files anyway.
    """
    if origin is not None and urlsplit(origin).netloc.lower() != asked.lower():
        return False
    return is_honest_name(asked, host)
