"""People in the browser: the body over its photograph, the story of the rounds, a list to walk through."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import viser

from deformlearn.camera import Crop
from deformlearn.errors import InputError
from deformlearn.viewer import cards, drawing
from deformlearn.viewer.canvas import BRAND, Eye, Framing, Patchwork, for_lines, put
from deformlearn.viewer.people import STEPS, Body, Person, Step, in_view
from deformlearn.viewer.roll import EVERYONE, FLAGGED, ORDERS, Choice
from deformlearn.viewer.source import Source

PAGE = 9
"""People on a page of the list."""

VIEWS: dict[str, tuple[float, float, float]] = {
    "Front": (0.0, 0.0, 1.0),
    "Side": (1.0, 0.0, 0.0),
    "Back": (0.0, 0.0, -1.0),
    "Top": (0.0, 1.0, 0.001),
}


@dataclass(frozen=True)
class Shown:
    """What is on show."""

    number: int
    """Place in the roll."""
    round: int
    step: Step


class PeopleWindow:
    """Draws people on a server and answers its controls.

    Every change goes through `show`, under a lock: controls answer in threads of their own.
    """

    def __init__(self, server: viser.ViserServer, source: Source) -> None:
        found, roll = source.found, source.roll
        self._server, self._found, self._roll = server, found, roll
        self._template, self._people = source.template, source.people
        self._lock = threading.RLock()
        self._listed = roll.choose(Choice())
        self._page = 0
        self._meshes: dict[str, viser.MeshHandle] = {}
        self._painted: Patchwork | None = None
        self._plane: viser.ImageHandle | None = None
        self._plane_of: Person | None = None
        self._marks: list[viser.SceneNodeHandle] = []
        self._person: Person | None = None
        self._busy = False
        rounds = found.rounds or (0,)
        self.shown = Shown(int(self._listed[0]), rounds[-1], "after")
        self._make_controls(rounds)
        self._make_keys()
        self._eye = Eye(server, self._framing("Front"))
        self.show(self.shown)

    def show(self, wanted: Shown) -> None:
        """Draw a person, or another body of the same."""
        with self._lock:
            if self._person is None or wanted.number != self.shown.number:
                self._person = self._read(wanted.number)
                places = np.flatnonzero(self._listed == wanted.number)
                self._page = int(places[0]) // PAGE if len(places) else self._page
            self.shown = wanted
            self._draw()
            self._fill_controls()

    def _read(self, number: int) -> Person:
        """Someone; of whom nothing can be read any more, the name and the reason."""
        key, split = self._roll.key(number), self._roll.split(number)
        try:
            return self._people.read(key, split, self._roll.row(number))
        except InputError as error:
            nowhere = Crop(torch.zeros(1, 2), torch.ones(1))
            return Person(key, split, "", None, nowhere, None, (), (str(error),))

    def step(self, forwards: int) -> None:
        """Go to the next person of the list, or the one before."""
        with self._lock:
            places = np.flatnonzero(self._listed == self.shown.number)
            place = int(places[0]) + forwards if len(places) else 0
            if 0 <= place < len(self._listed):
                self.show(replace(self.shown, number=int(self._listed[place])))

    def _framing(self, view: str) -> Framing:
        if self._found.files:
            return Framing(VIEWS[view])
        middle, half = drawing.BOTH
        return Framing(VIEWS[view], (middle, 0.0, 0.0), half, 1.08)

    def _body(self) -> Body | None:
        """The body on show: what is asked for, or else the fit, or else the last there is."""
        person = self._person
        assert person is not None
        steps: tuple[Step, ...] = (self.shown.step, "after", "before", "network")
        here = (person.body(self.shown.round, step) for step in steps)
        return next((body for body in here if body is not None), None) or (
            person.bodies[-1] if person.bodies else None
        )

    # ---- drawing

    def _draw(self) -> None:
        person, body = self._person, self._body()
        assert person is not None
        picture = drawing.picture_of(self._template, person, body)
        with self._server.atomic():
            self._draw_photo(person, picture.photo_depth)
            self._draw_bodies(person, body, picture)
            for handle in self._marks:
                handle.remove()
            self._marks = []
            for name, on, marks, size in (
                ("points", self._points.value, picture.points, 0.015),
                ("keypoints", self._keypoints.value, picture.keypoints, 0.026),
            ):
                if on and len(marks.placed):
                    self._draw_marks(name, marks, size, both=picture.painted)

    def _draw_photo(self, person: Person, depth: float) -> None:
        if self._plane is not None and self._plane_of is not person:
            self._plane.remove()
            self._plane = None
        if self._plane is None and person.photo is not None:
            self._plane_of = person
            self._plane = self._server.scene.add_image(
                "/photo", person.photo, 2.0, 2.0, format="jpeg", jpeg_quality=92,
                position=(0, 0, depth), wxyz=(0, 1, 0, 0), cast_shadow=False, receive_shadow=False,
            )  # fmt: skip
        if self._plane is not None:
            self._plane.visible = self._photo.value

    def _draw_bodies(self, person: Person, body: Body | None, picture: drawing.Picture) -> None:
        if not picture.painted and self._painted is not None:
            self._painted.remove()
            self._painted = None
        if picture.painted:
            for name in self._meshes:
                self._draw_mesh(name, None, drawing.SHADE, 1.0)
            if self._painted is None:
                owner, colours = drawing.patches(self._template)
                faces = self._template.faces.numpy()
                self._painted = Patchwork(
                    self._server, "/template", picture.vertices, faces, owner, colours
                )
            return
        solid = picture.vertices if self._solid.value else None
        self._draw_mesh("/body", solid, drawing.SHADE, self._opacity.value)
        before = None if body is None else person.body(body.round, "before")
        ghost = None
        if self._ghost.value and before is not None and before is not body:
            ghost = in_view(self._template, before.estimate)
        self._draw_mesh("/ghost", ghost, drawing.GHOST, 0.45)

    def _draw_mesh(
        self, name: str, vertices: np.ndarray | None, colour: tuple[int, int, int], opacity: float
    ) -> None:
        """Move a mesh, which is made when it is first wanted; None hides it."""
        mesh = self._meshes.get(name)
        if mesh is None:
            if vertices is None:
                return
            mesh = self._meshes[name] = self._server.scene.add_mesh_simple(
                name, vertices, self._template.faces.numpy(), color=colour, side="double",
                cast_shadow=False, receive_shadow=False,
            )  # fmt: skip
        if vertices is not None:
            mesh.vertices = vertices
        mesh.opacity = None if opacity >= 1 else opacity
        mesh.visible = vertices is not None

    def _draw_marks(self, name: str, marks: drawing.Marks, size: float, *, both: bool) -> None:
        scene = self._server.scene
        behind = np.array([0, 0, -0.004], np.float32)
        for place, where in (("placed", marks.placed), ("found", marks.found))[: 1 + both]:
            for part, points, colours, scale in (
                ("dots", where, marks.colours, 1.0),
                ("rims", where + behind, marks.colours // 3, 1.35),
            ):
                self._marks.append(
                    scene.add_point_cloud(
                        f"/{name}/{place}/{part}", points, colours, point_size=scale * size,
                        point_shape="circle", point_shading="flat", precision="float32",
                    )
                )  # fmt: skip
        if self._lines.value:
            segments = np.stack([marks.placed, marks.found], 1)
            colours = for_lines(np.repeat(marks.line_colours[:, None], 2, 1))
            thickness = 0.004 if both else 0.008
            self._marks.append(
                scene.add_line_segments(f"/{name}/lines", segments, colours, thickness=thickness)
            )

    # ---- controls

    def _make_controls(self, rounds: tuple[int, ...]) -> None:
        gui, bodies = self._server.gui, bool(self._found.files)
        self._card = gui.add_html("")
        with gui.add_folder("Body", visible=bodies):
            self._round = gui.add_slider(
                "Round", rounds[0], max(rounds[-1], rounds[0] + 1), 1, rounds[-1],
                disabled=len(rounds) == 1, hint="Keys 1 to 9",
            )  # fmt: skip
            self._step = gui.add_dropdown("Show", tuple(cards.STEP_NAMES.values()), hint="Key B")
            self._ghost = gui.add_checkbox(
                "With start", False, hint="Orange: what the fit began with. Key G"
            )
        with gui.add_folder("Layers"):
            self._photo = gui.add_checkbox("Photograph", True)
            self._solid = gui.add_checkbox("Body", True, visible=bodies)
            self._opacity = gui.add_slider("Opacity", 0.1, 1.0, 0.05, 1.0, visible=bodies)
            self._points = gui.add_checkbox("Points", True, hint="Dense correspondences")
            self._keypoints = gui.add_checkbox("Key points", not bodies)
            self._lines = gui.add_checkbox(
                "Lines", bodies, hint="From each label to the body: green is met, red is far off"
            )
            views = gui.add_button_group("View", tuple(VIEWS))
        views.on_click(lambda _: self._eye.look(self._framing(views.value)))
        people = gui.add_panel()
        with people.add_tab("People"):
            self._make_list()
        people.dock_left()
        people.set_width(270)
        layers = (
            self._ghost, self._photo, self._solid, self._opacity, self._points, self._keypoints,
            self._lines,
        )  # fmt: skip
        for control in layers:
            control.on_update(lambda _: self._changed(self.shown))
        self._round.on_update(
            lambda _: self._changed(replace(self.shown, round=int(self._round.value)))
        )
        names = {name: step for step, name in cards.STEP_NAMES.items()}
        self._step.on_update(
            lambda _: self._changed(replace(self.shown, step=names[self._step.value]))
        )

    def _make_list(self) -> None:
        gui = self._server.gui
        bodies = bool(self._found.files)
        self._order = gui.add_dropdown("Order", ORDERS, visible=bodies)
        self._split = gui.add_dropdown(
            "Split", (EVERYONE, *self._roll.splits), visible=len(self._roll.splits) > 1
        )
        reasons = self._roll.reasons
        self._flag = gui.add_dropdown("Flag", (EVERYONE, FLAGGED, "ok", *reasons), visible=bodies)
        self._text = gui.add_text("Name has", "")
        walk = gui.add_button_group("Keys P, N", ("Previous", "Next"))
        walk.on_click(lambda _: self.step(1 if walk.value == "Next" else -1))
        self._count = gui.add_html("")
        self._rows = [gui.add_button(" ", color="gray") for _ in range(PAGE)]
        for place, button in enumerate(self._rows):
            button.on_click(partial(lambda place, _: self.pick(place), place))
        turn = gui.add_button_group("Page", ("|<", "<", ">", ">|"))
        turn.on_click(lambda _: self._turn_page(turn.value))
        for control in (self._order, self._split, self._flag, self._text):
            control.on_update(lambda _: self._filter())

    def _make_keys(self) -> None:
        """Keys, which are also commands of the palette."""

        def key(label: str, hotkey: str, act: Callable[[], None]) -> None:
            self._server.gui.add_command(label, hotkey=hotkey).on_trigger(lambda _: act())  # type: ignore[arg-type]

        key("Next person", "N", lambda: self.step(1))
        key("Previous person", "P", lambda: self.step(-1))
        key("Next person ", "pagedown", lambda: self.step(1))
        key("Previous person ", "pageup", lambda: self.step(-1))
        key("Before or after the fit", "B", self._toggle_step)
        key("Compare with the start", "G", lambda: self._flip(self._ghost))
        key("Photograph", "H", lambda: self._flip(self._photo))
        for round_ in self._found.rounds:
            if 0 < round_ < 10:
                key(f"Round {round_}", str(round_), partial(self._to_round, round_))

    def _to_round(self, round_: int) -> None:
        self._changed(replace(self.shown, round=round_))

    def _toggle_step(self) -> None:
        step: Step = "after" if self.shown.step == "before" else "before"
        self._changed(replace(self.shown, step=step))

    def _flip(self, checkbox: viser.GuiCheckboxHandle) -> None:
        put(checkbox, not checkbox.value)

    def _changed(self, wanted: Shown) -> None:
        """A control was moved: draw, unless we moved it ourselves."""
        with self._lock:
            if not self._busy:
                self.show(wanted)

    def pick(self, place: int) -> None:
        """Show whoever stands at this place of the page."""
        with self._lock:
            at = self._page * PAGE + place
            if at < len(self._listed):
                self.show(replace(self.shown, number=int(self._listed[at])))

    def _turn_page(self, where: str) -> None:
        with self._lock:
            last = max(0, (len(self._listed) - 1) // PAGE)
            pages = {"|<": 0, "<": self._page - 1, ">": self._page + 1, ">|": last}
            self._page = min(max(pages[where], 0), last)
            self._fill_list()

    def _filter(self) -> None:
        with self._lock:
            if self._busy:
                return
            choice = Choice(
                self._split.value, self._flag.value, self._text.value, self._order.value
            )
            self._listed = self._roll.choose(choice)
            self._page = 0
            if len(self._listed):
                self.show(replace(self.shown, number=int(self._listed[0])))
            else:
                self._fill_list()

    def _fill_controls(self) -> None:
        """Make every control say what is on show."""
        person, body = self._person, self._body()
        assert person is not None
        self._busy = True
        try:
            put(self._round, self.shown.round or self._round.value)
            put(self._step, cards.STEP_NAMES[self.shown.step])
            flag = self._roll.flag(self.shown.number)
            self._card.content = cards.person_card(person, body, self.shown.step, flag)
            self._fill_list()
        finally:
            self._busy = False

    def _fill_list(self) -> None:
        count = len(self._listed)
        first = self._page * PAGE
        self._count.content = cards.count_line(
            first, min(first + PAGE, count), count, measured=bool(self._found.files)
        )
        with self._server.atomic():
            for place, button in enumerate(self._rows):
                inside = first + place < count
                button.visible = inside
                if inside:
                    number = int(self._listed[first + place])
                    button.label = cards.row_label(self._roll, number)
                    chosen = number == self.shown.number
                    flagged = self._roll.flag(number) not in ("", "ok")
                    button.color = BRAND if chosen else "orange" if flagged else "gray"


assert set(STEPS) == set(cards.STEP_NAMES)
