"""Maps between surfaces: laws, planted answers, the shipped table found again, refusals."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from deformlearn import meshes, surfaces
from deformlearn.body import BodyParameters, skin
from deformlearn.errors import InputError
from deformlearn.extremities import matching, tips_of
from deformlearn.meshes import Surface
from deformlearn.nonrigid import drape
from deformlearn.skeleton import SEGMENTS
from deformlearn.surface_fit import Body
from deformlearn.surfaces import map_surface, read_map, smpl_points_on, summarise, write_map

FLIP = np.array([-1.0, 1.0, 1.0])
LIMBS = ("hip", "knee", "ankle", "shoulder", "elbow", "wrist", "hand")


def clustered(vertices, faces, cell):
    """A coarser mesh on some of the vertices: ids of those that stay, and the faces between them."""
    key = np.floor(vertices / cell).astype(np.int64)
    order = np.argsort(np.linalg.norm(vertices / cell - key - 0.5, axis=1), kind="stable")
    _, first, member = np.unique(key[order], axis=0, return_index=True, return_inverse=True)
    label = np.empty(len(vertices), np.int64)
    label[order] = member.reshape(-1)
    merged = label[faces]
    merged = merged[(merged != np.roll(merged, 1, axis=1)).all(1)]
    # A face that was folded onto another leaves a sheet with two sides, which has no outside.
    _, one, times = np.unique(
        np.sort(merged, axis=1), axis=0, return_index=True, return_counts=True
    )
    merged = merged[np.sort(one[times == 1])]
    used = np.unique(merged)
    return order[first][used], np.searchsorted(used, merged)


@pytest.fixture(scope="module")
def person(anny):
    """Anny with other proportions, posed, arms higher, on another mesh, in inches: a bare surface."""
    g = torch.Generator().manual_seed(4)
    pose = 0.08 * torch.randn(23, 3, generator=g)
    for side, sign in (("left", 1), ("right", -1)):
        pose[SEGMENTS.index(f"{side}_shoulder") - 1, 2] += sign * 0.6
    scales = (0.07 * torch.randn(24, generator=g)).exp()
    posed = skin(anny, BodyParameters(scales, pose)).double().numpy()
    ids, faces = clustered(posed, anny.faces.numpy(), 0.01)
    return ids, Surface("person", 39.37 * posed[ids] + [3.0, 40.0, 5.0], faces)


@pytest.fixture(scope="module")
def found(anny, person):
    return map_surface(person[1], anny)


def box(low, high):
    """A cuboid, 12 triangles facing outwards, subdivided into many."""
    corners = np.array(np.meshgrid(*zip(low, high, strict=True), indexing="ij")).reshape(3, -1).T
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = np.array([(a, b, c) for a, b, c, _ in quads] + [(a, c, d) for a, _, c, d in quads])
    vertices = corners.astype(float)
    for _ in range(4):
        middles = (vertices[faces] + vertices[np.roll(faces, -1, axis=1)]) / 2
        new = len(vertices) + np.arange(3 * len(faces)).reshape(-1, 3)
        vertices = np.concatenate([vertices, middles.reshape(-1, 3)])
        (a, b, c), (ab, bc, ca) = faces.T, new.T
        parts = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
        faces = np.concatenate([np.stack(part, -1) for part in parts])
    _, first, member = np.unique(vertices.round(9), axis=0, return_index=True, return_inverse=True)
    return vertices[first], member.reshape(-1)[faces]


def joined(*pieces):
    vertices, faces, count = [], [], 0
    for places, corners in pieces:
        vertices.append(places)
        faces.append(corners + count)
        count += len(places)
    return np.concatenate(vertices), np.concatenate(faces)


def errors_mm(anny, surface_map, ids):
    """Distance on Anny between where known vertices were carried and where they are."""
    body = Surface.of(anny)
    landed = body.at(surface_map.faces, surface_map.barycentric)
    seen = np.isin(ids, body.seen_vertices)
    return 1000 * np.linalg.norm(landed - body.vertices[ids], axis=1)[seen], ids[seen]


def test_a_template_mapped_to_itself_stays_where_it_is(anny):
    same = map_surface(anny, anny)
    landed = Surface.of(anny).at(same.faces, same.barycentric)
    np.testing.assert_allclose(landed, anny.vertices.numpy(), atol=1e-6)
    assert not same.distance.any()
    summary = summarise(same, anny, anny)
    assert summary.same_part == 1
    assert summary.stretch == (1, 1, 1)
    assert summary.asymmetry_mm == (0, 0)
    faces, barycentric = np.array([5, 7]), np.array([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])
    carried = same.carry(faces, barycentric)
    assert np.array_equal(carried[0], faces)
    assert np.array_equal(carried[1], barycentric)


def test_points_of_a_person_of_other_proportions_pose_and_mesh_are_found_again(anny, person, found):
    apart, ids = errors_mm(anny, found, person[0])
    assert np.median(apart) < 5
    assert np.quantile(apart, 0.95) < 25
    owner = anny.weights.numpy()[ids].argmax(1)
    for index, segment in enumerate(SEGMENTS):
        # Limbs slide by 1 to 2 cm, and rounding alone decides by how much (0013).
        assert np.median(apart[owner == index]) < 25, segment


def test_the_map_lies_on_the_surface_and_stretches_little(anny, person, found):
    summary = summarise(found, person[1], anny)
    assert summary.distance_mm[0] < 1
    assert summary.distance_mm[1] < 5
    low, middle, high = summary.stretch
    assert 0.3 < low < 0.97 < middle < 1.06 < high < 2.5
    assert summary.same_part is None
    assert summary.asymmetry_mm is None
    assert "distance" in str(summary)
    assert "times as long" in str(summary)


def test_the_map_of_a_mirrored_person_is_the_mirrored_map(anny, person, found):
    ids, surface = person
    mirrored = map_surface(Surface("image", surface.vertices * FLIP, surface.faces[:, ::-1]), anny)
    body = Surface.of(anny)
    direct = body.at(found.faces, found.barycentric)
    image = body.at(mirrored.faces, mirrored.barycentric) * FLIP
    apart = np.linalg.norm(direct - image, axis=1)[np.isin(ids, body.seen_vertices)]
    # Rounding may send a few points to a neighbouring face; nothing else may differ.
    assert np.quantile(apart, 0.99) < 1e-4


def posed_template(anny):
    """Anny with its arms down for a rest pose."""
    pose = torch.zeros(23, 3)
    for side, sign in (("left", 1), ("right", -1)):
        pose[SEGMENTS.index(f"{side}_shoulder") - 1, 2] = -0.45 * sign
    parameters = replace(anny.rest_parameters(), pose=pose)
    joints = skin(
        anny, parameters, replace(anny.landmarks, rest=anny.joints, weights=torch.eye(24))
    )
    landmarks = replace(anny.landmarks, rest=skin(anny, parameters, anny.landmarks))
    return replace(
        anny, name="down", vertices=skin(anny, parameters), joints=joints, landmarks=landmarks
    )


@pytest.fixture(scope="module")
def lowered(anny):
    """The template with its arms down, and the map from Anny to it."""
    template = posed_template(anny)
    return template, map_surface(anny, template)


def test_between_two_templates_parts_go_to_parts_whatever_the_rest_pose(anny, lowered):
    template, there = lowered
    summary = summarise(there, anny, template)
    assert summary.same_part > 0.97
    assert summary.distance_mm[0] < 1
    assert summary.asymmetry_mm[0] < 1.5
    assert "stays on its part" in str(summary)
    assert "mirror" in str(summary)
    landed = Surface.of(template).at(there.faces, there.barycentric)
    apart = np.linalg.norm(landed - template.vertices.numpy(), axis=1)
    assert np.median(apart[Surface.of(anny).seen_vertices]) < 0.005
    back = there.inverse()
    assert summarise(back, template, anny).same_part > 0.97
    around = Surface.of(anny).at(*back.carry(there.faces, there.barycentric)[:2])
    returned = np.linalg.norm(around - anny.vertices.numpy(), axis=1)
    assert np.quantile(returned[Surface.of(anny).seen_vertices], 0.95) < 0.003


def test_a_clothed_rig_in_a_t_pose_gets_every_part(anny, shared):
    from deformlearn import templates

    rig = templates.load(shared / "rigs" / "quaternius_modular_men_Casual.glb")
    there = map_surface(rig, anny)
    summary = summarise(there, rig, anny)
    # The rest are seams: where its maker lets the thigh end, and a hood that covers the neck.
    assert summary.same_part > 0.88
    assert summary.distance_mm[0] < 3
    assert summary.asymmetry_mm[0] < 4
    back = there.inverse()
    assert summarise(back, anny, rig).same_part > 0.87
    faces, barycentric, _ = back.carry(*smpl_points_on(anny))
    places = Surface.of(rig).at(faces, barycentric)
    # SMPL's ids: crown, left and right middle finger tips, left and right big toes.
    crown, left, right, left_toe, right_toe = places[[411, 2445, 5905, 3216, 6617]] / rig.height
    assert crown[1] > places[:, 1].max() / rig.height - 0.05
    assert left[0] > 0.35
    assert right[0] < -0.35
    assert left_toe[0] > 0 > right_toe[0]


def test_mhrs_surface_gives_the_shipped_table_of_smpls_vertices(anny, shared):
    ply = read_ply(shared / "mhr" / "mhr_face_mask.ply")
    with np.load(shared / "mhr" / "mhr2smpl_mapping.npz") as table:
        faces, barycentric = table["triangle_ids"].astype(np.int64), table["baryc_coords"]
    found = map_surface(Surface("mhr", *ply), anny)
    body = Surface.of(anny)
    table_faces, table_barycentric = smpl_points_on(anny)
    carried, blend, _ = found.carry(faces, barycentric.astype(np.float64))
    apart = np.linalg.norm(
        body.at(carried, blend) - body.at(table_faces, table_barycentric), axis=1
    )
    assert np.median(apart) < 0.006
    weights = np.einsum(
        "nc,ncs->ns", table_barycentric, anny.weights.double().numpy()[body.faces[table_faces]]
    )
    owner = weights.argmax(1)
    for index, segment in enumerate(SEGMENTS):
        if segment.partition("_")[2] in LIMBS:
            assert np.median(apart[owner == index]) < 0.012, segment


def read_ply(path):
    """Vertices and triangles of a binary little-endian .ply of floats and triangles."""
    content = path.read_bytes()
    header, _, body = content.partition(b"end_header\n")
    lines = header.decode().split("\n")
    counts = {line.split()[1]: int(line.split()[2]) for line in lines if line.startswith("element")}
    kinds = {"float": "<f4", "double": "<f8", "uchar": "u1", "int": "<i4", "uint": "<u4"}
    properties = [line.split()[1:] for line in lines if line.startswith("property")]
    columns = [(name, kinds[kind]) for kind, *rest in properties if kind != "list" for name in rest]
    vertices = np.frombuffer(body, np.dtype(columns), counts["vertex"])
    start = vertices.nbytes
    record = np.dtype([("count", "u1"), ("corners", "<i4", 3)])
    faces = np.frombuffer(body, record, counts["face"], start)
    assert (faces["count"] == 3).all()
    places = np.stack([vertices[axis] for axis in "xyz"], -1)
    return places.astype(np.float64), faces["corners"].astype(np.int64)


def test_a_map_is_read_as_it_was_written_and_nothing_else_is(tmp_path, anny, found, person):
    path = tmp_path / "person.safetensors"
    write_map(path, found)
    again = read_map(path)
    for name in ("faces", "barycentric", "distance"):
        assert np.array_equal(getattr(again, name), getattr(found, name))
    assert (again.source.name, again.target.name) == ("person", "anny")
    points = np.arange(5), np.full((5, 3), 1 / 3)
    for one, other in zip(again.carry(*points), found.carry(*points), strict=True):
        assert np.array_equal(one, other)
    assert summarise(again, person[1], anny) == summarise(found, person[1], anny)
    with pytest.raises(InputError, match="make it again"):
        summarise(again, person[1], posed_template(anny))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="not a whole surface map"):
        read_map(path)
    with pytest.raises(InputError, match="not a whole surface map"):
        read_map(tmp_path / "absent")


def test_what_is_no_standing_human_facing_forward_is_refused(anny):
    legs = [box((x, 0, z), (x + 0.15, 0.8, z + 0.15)) for x in (-0.3, 0.15) for z in (-0.8, 0.65)]
    horse = joined(
        box((-0.3, 0.8, -0.8), (0.3, 1.3, 0.8)), *legs, box((-0.1, 1.2, 0.8), (0.1, 1.8, 1.3))
    )
    with pytest.raises(InputError, match=r"does not fit the surface 'horse': \d+ % of the two"):
        map_surface(Surface("horse", *horse), anny)
    vertices = anny.vertices.double().numpy()
    turned = Surface("turned", vertices * [-1, 1, -1], anny.faces.numpy())
    with pytest.raises(InputError, match="face -z"):
        map_surface(turned, anny)


@pytest.mark.parametrize(
    ("vertices", "faces", "said"),
    [
        (np.zeros((0, 3)), np.zeros((0, 3), np.int64), "no faces"),
        (np.eye(3), np.zeros((0, 3), np.int64), "no faces"),
        (np.array([[0, 0, 0], [0, np.nan, 0], [1, 1, 1.0]]), np.array([[0, 1, 2]]), "number 1"),
        (np.eye(3), np.array([[0, 1, 3]]), "names vertex 3"),
        (np.eye(3) * [1, 0, 1], np.array([[0, 1, 2]]), "flat"),
    ],
)
def test_a_broken_mesh_is_refused_in_words(vertices, faces, said):
    with pytest.raises(InputError, match=said):
        Surface("mesh", vertices, faces)


def test_one_of_two_surfaces_must_have_a_skeleton(person):
    with pytest.raises(InputError, match="has a skeleton"):
        map_surface(person[1], person[1])


def test_smpls_vertices_lie_on_themselves_and_on_any_template_through_a_kept_map(
    tmp_path, monkeypatch, capsys, anny, lowered
):
    monkeypatch.setenv("DEFORMLEARN_CACHE", str(tmp_path))
    monkeypatch.setattr("deformlearn.templates.load", lambda name: anny)
    template, made = lowered
    monkeypatch.setattr(surfaces, "map_surface", lambda source, target: made)
    faces, barycentric = smpl_points_on(template)
    assert len(faces) == 6890
    assert "about 20 s" in capsys.readouterr().err
    # The template has Anny's mesh: the points must be those of the table.
    table = Surface.of(template).at(*smpl_points_on(anny))
    there = Surface.of(template).at(faces, barycentric)
    assert np.median(np.linalg.norm(there - table, axis=1)) < 0.005

    monkeypatch.setattr(surfaces, "map_surface", None)  # from here on, the kept one serves
    again = smpl_points_on(template)
    assert np.array_equal(again[0], faces)
    assert capsys.readouterr().err == ""
    (kept,) = (tmp_path / "maps").iterdir()
    kept.write_bytes(b"damaged")
    monkeypatch.setattr(surfaces, "map_surface", lambda source, target: made)
    smpl_points_on(template)
    assert "again" in capsys.readouterr().err


def test_a_mesh_of_smpls_has_its_vertices_as_points(template):
    count, faces = surfaces.SMPL_VERTICES, surfaces.SMPL_FACES
    g = np.random.default_rng(0)
    corners = np.concatenate([np.arange(count), g.integers(0, count, 3 * faces - count)])
    smpl = replace(
        template, name="smpl_neutral",
        vertices=torch.rand(count, 3), faces=torch.from_numpy(g.permutation(corners).reshape(-1, 3)),
        weights=torch.eye(24)[g.integers(0, 24, count)], mirror=torch.arange(count),
    )  # fmt: skip
    places = Surface.of(smpl).at(*smpl_points_on(smpl))
    np.testing.assert_allclose(places, smpl.vertices.numpy(), atol=1e-6)


def test_what_lies_inside_is_not_seen_and_seams_are_sewn():
    outer, inner = box((-1, 0, -1), (1, 2, 1)), box((-0.5, 0.5, -0.5), (0.5, 1.5, 0.5))
    surface = Surface("boxes", *joined(outer, inner))
    assert np.array_equal(surface.seen_faces, np.arange(len(outer[1])))
    torn = Surface(
        "torn", outer[0][outer[1]].reshape(-1, 3), np.arange(3 * len(outer[1])).reshape(-1, 3)
    )
    assert torn.welded.max() + 1 == len(outer[0])
    whole = meshes.vertex_normals(Surface("whole", *outer))[outer[1]].reshape(-1, 3)
    np.testing.assert_allclose(meshes.vertex_normals(torn), whole, atol=1e-12)


def test_the_nearest_point_faces_the_same_way_unless_it_is_far():
    sheet = Surface("box", *box((-1, 0, -0.02), (1, 2, 0.02)))
    points, forward = np.array([[0.1, 1.0, 0.019]]), np.array([[0.0, 0.0, 1.0]])
    faces, blend, distance = sheet.nearest(points, forward)
    np.testing.assert_allclose(sheet.at(faces, blend), [[0.1, 1.0, 0.02]], atol=1e-9)
    backward = sheet.nearest(points, -forward)  # 2 cm farther: not for a surface 2 m high
    np.testing.assert_allclose(sheet.at(*backward[:2]), [[0.1, 1.0, 0.02]], atol=1e-9)
    near = sheet.nearest(np.array([[0.1, 1.0, -0.012]]), forward)  # 8 and 32 mm away
    np.testing.assert_allclose(sheet.at(*near[:2]), [[0.1, 1.0, -0.02]], atol=1e-9)
    np.testing.assert_allclose(distance, [0.001], atol=1e-9)


def test_spread_vertices_of_a_mirrored_mesh_are_the_mirrored_vertices(person):
    surface = person[1]
    image = Surface("image", surface.vertices * FLIP, surface.faces[:, ::-1])
    assert np.array_equal(meshes.spread_vertices(surface, 2.0), meshes.spread_vertices(image, 2.0))


def test_a_sheet_is_drawn_onto_a_wavy_one_without_sliding():
    x, y = np.meshgrid(np.linspace(0, 1, 41), np.linspace(0, 1, 41), indexing="ij")
    index = np.arange(41 * 41).reshape(41, 41)
    a, b, c, d = (
        index[i : 40 + i, j : 40 + j].ravel() for i, j in ((0, 0), (1, 0), (1, 1), (0, 1))
    )
    faces = np.concatenate([np.stack([a, b, c], -1), np.stack([a, c, d], -1)])
    wave = 0.01 * np.sin(2 * np.pi * x) * np.sin(2 * np.pi * y)
    flat = Surface("flat", np.stack([x, y, 0 * x], -1).reshape(-1, 3), faces)
    wavy = Surface("wavy", np.stack([x, y, wave], -1).reshape(-1, 3), faces)
    none = np.zeros(0, np.int64)
    drawn = drape(flat, wavy, (none, none))
    _, _, distance = wavy.search.nearest(drawn)
    assert distance.max() < 2e-4
    assert np.abs(drawn[:, :2] - flat.vertices[:, :2]).max() < 2e-3
    corner, opposite = np.array([0]), np.array([index[0, 2]])
    pulled = drape(flat, wavy, (corner, opposite))
    assert pulled[0, 1] > 0.02  # an anchor is not a closest point


def test_a_hand_has_five_tips_and_they_find_their_fellows(anny):
    body = Body.of(anny)
    columns = [SEGMENTS.index(name) for name in ("left_wrist", "left_hand")]
    hand = anny.weights.numpy()[:, columns].sum(1) > 0.5
    tips = tips_of(body.surface, hand)
    assert len(tips) == 5
    places = body.surface.vertices[tips]
    spread = np.linalg.norm(places[:, None] - places[None], axis=-1)[np.triu_indices(5, 1)]
    assert spread.min() > 0.015
    assert spread.max() < 0.2
    shuffled = np.array([3, 1, 4, 0, 2])
    assert np.array_equal(shuffled[matching(places, places[shuffled] + 0.05)], np.arange(5))
    assert len(tips_of(body.surface, np.zeros_like(hand))) == 0
