"""The server, its light and its cameras, and meshes that come in patches of one colour each."""

from __future__ import annotations

import contextlib
import errno
import io
import math
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import viser
from viser import _messages

from deformlearn.errors import InputError
from deformlearn.viewer.guard import only_from_own_pages

BRAND = (58, 96, 178)
"""Colour of controls."""

FAR_FOV = math.radians(1.2)
"""Field of view so small that perspective is gone: 1 % between the nearest and farthest of a body."""

_USUAL_ASPECT = 0.9
"""Width over height of the scene between its panels, before a page has told its own."""

_UNTURNED = math.cos(math.radians(1))

_IN_USE = (errno.EADDRINUSE, getattr(errno, "WSAEADDRINUSE", errno.EADDRINUSE))


@contextlib.contextmanager
def served(host: str, port: int, title: str, *, dark: bool) -> Iterator[viser.ViserServer]:
    """A running viewer without content, stopped at the end. A port in use is an InputError."""
    _check_address(host, port)
    # viser announces itself on stdout; what to open is said by us.
    with contextlib.redirect_stdout(io.StringIO()):
        server = viser.ViserServer(host=host, port=port, label=title, verbose=False)
    try:
        only_from_own_pages(server, host)
        # A client could ask for a tunnel through an outside host.
        server._websock_server._incoming_handlers.pop(_messages.ShareUrlRequest, None)
        server.gui.configure_theme(
            dark_mode=dark, show_logo=False, show_share_button=False, brand_color=BRAND
        )
        server.gui.main_panel.dock_right()
        server.scene.set_up_direction("+y")
        _light(server)
        yield server
    finally:
        with contextlib.redirect_stdout(io.StringIO()):
            server.stop()


def _check_address(host: str, port: int) -> None:
    """Refuse what cannot be bound; viser itself would go on to other ports, or wait for ever."""
    if not 0 <= port <= 65535:
        raise InputError(f"there is no port {port}; choose one up to 65535 with --port")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            if os.name == "posix":  # elsewhere it would let two servers have one port
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        if error.errno in _IN_USE:
            raise InputError(
                f"port {port} is in use; choose another with --port (0 finds a free one)"
            ) from error
        raise InputError(f"cannot serve at {host}:{port}: {error}; give another") from error


def _light(server: viser.ViserServer) -> None:
    """A soft key from the upper left of the viewer, a fill, and light from all around."""
    scene = server.scene
    scene.configure_default_lights(enabled=False)
    scene.configure_environment_map(None)
    scene.add_light_hemisphere(
        "/light/sky", sky_color=(255, 255, 255), ground_color=(150, 146, 140), intensity=1.5
    )
    scene.add_light_directional("/light/key", position=(-1.6, 2.4, 3.0), intensity=1.9)
    scene.add_light_directional(
        "/light/fill", position=(2.6, 0.3, 1.2), intensity=0.5, color=(225, 232, 255)
    )
    scene.add_light_directional("/light/rim", position=(0.4, 1.5, -3.0), intensity=0.9)


@dataclass(frozen=True)
class Framing:
    """From where, and how much of the scene, a page shows."""

    direction: tuple[float, float, float]
    """Towards the viewer."""
    target: tuple[float, float, float] = (0.0, 0.0, 0.0)
    width: float = 1.08
    """Half of what must be seen across."""
    height: float = 1.08
    """Half of what must be seen from top to bottom."""
    fov: float = FAR_FOV

    def distance(self, aspect: float) -> float:
        """How far away the camera stands, in a window of this width over height."""
        return max(self.height, self.width / aspect) / math.tan(self.fov / 2)

    def position(self, aspect: float) -> np.ndarray:
        """Where the camera stands."""
        away = np.asarray(self.direction) / np.linalg.norm(self.direction)
        return np.asarray(self.target) + self.distance(aspect) * away

    def clipping(self, aspect: float) -> tuple[float, float]:
        """Nearest and farthest depth: close to the body, as there is precision for nothing else."""
        away, room = self.distance(aspect), 8 * max(self.width, self.height)
        return max(0.01, away - room), away + room


class Eye:
    """Points the cameras of all open pages, and of those that will be opened."""

    def __init__(self, server: viser.ViserServer, framing: Framing) -> None:
        self._server, self._framing = server, framing
        self.look(framing)
        server.on_client_connect(self._welcome)

    def look(self, framing: Framing) -> None:
        """Turn everyone there."""
        self._framing = framing
        initial = self._server.initial_camera
        initial.near, initial.far = framing.clipping(_USUAL_ASPECT)
        initial.fov, initial.up = framing.fov, (0.0, 1.0, 0.0)
        initial.position = framing.position(_USUAL_ASPECT)
        initial.look_at = np.asarray(framing.target)
        for client in self._server.get_clients().values():
            self._aim(client)

    def _welcome(self, client: viser.ClientHandle) -> None:
        """Aim at what a new page shows, and again when its panels have taken their room."""
        self._aim(client)
        seen = _size(client.camera)

        @client.camera.on_update
        def _(camera: viser.CameraHandle) -> None:
            nonlocal seen
            before, seen = seen, _size(camera)
            if seen != before and self._is_untouched(camera):
                self._aim(client)

    def _is_untouched(self, camera: viser.CameraHandle) -> bool:
        """Whether nobody has turned the scene since it was aimed at."""
        towards = camera.position - camera.look_at
        wanted = np.asarray(self._framing.direction)
        cosine = towards @ wanted / (np.linalg.norm(towards) * np.linalg.norm(wanted))
        return bool(cosine > _UNTURNED)

    def _aim(self, client: viser.ClientHandle) -> None:
        framing, camera = self._framing, client.camera
        aspect = camera.image_width / max(camera.image_height, 1)
        with client.atomic():
            camera.near, camera.far = framing.clipping(aspect)
            camera.fov, camera.up_direction = framing.fov, (0.0, 1.0, 0.0)
            camera.position = framing.position(aspect)
            camera.look_at = np.asarray(framing.target)


def _size(camera: viser.CameraHandle) -> tuple[int, int]:
    return camera.image_width, camera.image_height


def put(control: viser.GuiInputHandle, value: object) -> None:
    """Move a control."""
    control.value = value  # type: ignore[misc]  # viser's setter stands apart from its getter


class Patchwork:
    """One mesh in patches of one colour each, since a mesh in the viewer has one colour."""

    def __init__(
        self,
        server: viser.ViserServer,
        name: str,
        vertices: np.ndarray,
        faces: np.ndarray,
        patches: np.ndarray,
        colours: np.ndarray,
    ) -> None:
        """`patches` says which colour, (colours, 3) uint8, each face has."""
        self._server, self._parts = server, []
        for number in np.unique(patches).tolist():
            used, corners = np.unique(faces[patches == number], return_inverse=True)
            handle = server.scene.add_mesh_simple(
                f"{name}/{number}", vertices[used], corners.reshape(-1, 3),
                color=tuple(colours[number].tolist()), side="double",
                cast_shadow=False, receive_shadow=False,
            )  # fmt: skip
            self._parts.append((used, handle))

    def move(self, vertices: np.ndarray) -> None:
        """Replace all vertices."""
        with self._server.atomic():
            for used, handle in self._parts:
                handle.vertices = np.ascontiguousarray(vertices[used])

    def remove(self) -> None:
        """Take it off the scene."""
        for _, handle in self._parts:
            handle.remove()
        self._parts = []


def for_lines(colours: np.ndarray) -> np.ndarray:
    """Colours (uint8, sRGB) that lines show as they are meant: their shader takes them for linear."""
    share = colours / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return (255 * linear).round().astype(np.uint8)
