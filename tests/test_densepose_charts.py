"""DensePose's charts, and its labels on templates: the default body, SMPL's own mesh, any other."""

from dataclasses import replace
from importlib import resources

import numpy as np
import pytest
import scipy.io
import torch
from scipy.spatial import cKDTree

from deformlearn import densepose_charts
from deformlearn.charts import Charts
from deformlearn.densepose_charts import CarriedCharts
from deformlearn.errors import InputError
from deformlearn.patches import PatchSearch
from deformlearn.skeleton import SEGMENTS
from deformlearn.surfaces import smpl_points_on
from deformlearn.triangles import TriangleSearch


def places(template, faces, barycentric):
    corners = template.vertices.double().numpy()[template.faces.numpy()[faces]]
    return np.einsum("nc,ncd->nd", barycentric, corners)


def planted_mat(path, **changes):
    """A file like UV_Processed.mat: one triangle a part, in the same place of each chart."""
    count = 24
    fields = {
        "All_FaceIndices": np.arange(1, count + 1, dtype=np.uint8)[:, None],
        "All_Faces": np.arange(1, 3 * count + 1, dtype=np.uint32).reshape(count, 3),
        "All_U_norm": np.tile([0.0, 1.0, 0.0], count)[:, None],
        "All_V_norm": np.tile([0.0, 0.0, 1.0], count)[:, None],
        "All_vertices": np.arange(101, 101 + 3 * count, dtype=np.uint32)[None],
    } | changes
    scipy.io.savemat(path, {key: value for key, value in fields.items() if value is not None})
    return path


def test_densepose_charts_are_read_with_smpl_vertex_ids(tmp_path):
    read = densepose_charts.read_densepose_charts(planted_mat(tmp_path / "uv.mat"))
    assert read.parts.tolist() == list(range(1, 25))
    assert read.corners[4].tolist() == [112, 113, 114]
    faces, weights = read.chart_to_surface(np.array([5]), np.array([0.25]), np.array([0.5]))
    assert faces.tolist() == [4]
    np.testing.assert_allclose(weights, [[0.25, 0.25, 0.5]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"All_U_norm": None}, "no variable All_U_norm"),
        ({"All_U_norm": np.full((72, 1), 2.0)}, "not their content"),
        ({"All_V_norm": np.zeros((71, 1))}, "not their content"),
        ({"All_Faces": np.zeros((24, 3))}, "not their content"),
        ({"All_Faces": np.full((24, 3), 73)}, "not their content"),
        ({"All_FaceIndices": np.ones((24, 1))}, "not their content"),
        ({"All_vertices": np.zeros((1, 72))}, "not their content"),
        ({"All_U_norm": np.full((72, 1), np.nan)}, "not their content"),
    ],
)
def test_a_mat_file_with_other_content_is_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        densepose_charts.read_densepose_charts(planted_mat(tmp_path / "uv.mat", **changes))


def test_a_file_that_is_no_mat_file_is_refused(tmp_path):
    path = tmp_path / "UV_Processed.mat"
    with pytest.raises(
        InputError, match=r"No such file or directory; give DensePose's UV_Processed"
    ):
        densepose_charts.read_densepose_charts(path)
    for content in (b"", b"hello", bytes(range(256)) * 8):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"cannot be read as a MATLAB file.*UV_Processed"):
            densepose_charts.read_densepose_charts(path)


def test_charts_of_another_body_than_smpl_are_refused(anny, tmp_path):
    many = np.arange(7000, 7072, dtype=np.uint32)[None]
    read = densepose_charts.read_densepose_charts(
        planted_mat(tmp_path / "uv.mat", All_vertices=many)
    )
    with pytest.raises(InputError, match="SMPL has 6890 vertices"):
        densepose_charts.densepose_to_template(read, anny, np.array([1]), np.zeros(1), np.zeros(1))


def test_a_chart_corner_lands_where_the_table_has_its_smpl_vertex(anny, tmp_path):
    """Well-known SMPL ids (smplx): nose 332, left heel 3387, right small toe 6624, ... on Anny."""
    ids = np.full(72, 332)
    ids[:9] = np.repeat([332, 3387, 6624], 3)
    mat = planted_mat(tmp_path / "uv.mat", All_vertices=ids[None] + 1)
    read = densepose_charts.read_densepose_charts(mat)
    part = np.array([1, 2, 3])
    faces, weights, ok = densepose_charts.densepose_to_template(
        read, anny, part, np.full(3, 0.2), np.full(3, 0.3)
    )
    assert ok.all()
    nose, heel, toe = places(anny, faces, weights)
    assert (
        np.linalg.norm(nose - anny.landmarks.rest[anny.landmark_names.index("coco_nose")].numpy())
        < 0.03
    )
    assert heel[0] > 0
    assert heel[1] < -0.88
    assert heel[2] < 0
    assert toe[0] < 0
    assert toe[2] > 0.1


def test_labels_that_cannot_be_carried_over_are_not_ok(anny, tmp_path):
    # SMPL vertices 332 (nose), 3387 (left heel), 6787 (right heel): the middle is in the air.
    ids = np.full(72, 332)
    ids[:3] = [332, 3387, 6787]
    read = densepose_charts.read_densepose_charts(
        planted_mat(tmp_path / "uv.mat", All_vertices=ids[None] + 1)
    )
    part = np.array([0, 1, 2, 25])
    _, _, ok = densepose_charts.densepose_to_template(
        read, anny, part, np.full(4, 1 / 3), np.full(4, 1 / 3)
    )
    assert ok.tolist() == [False, False, True, False]


def test_real_labels_land_on_the_segments_of_their_parts(anny, shared):
    from PIL import Image

    read = densepose_charts.read_densepose_charts(shared / "densepose" / "UV_Processed.mat")
    assert read.corners.max() == 6889
    image = np.asarray(Image.open(shared / "densepose" / "demo_im_IUV.png"))
    y, x = np.nonzero(image[..., 2])
    chosen = np.random.default_rng(0).choice(len(y), 4000, replace=False)
    v, u, part = image[y[chosen], x[chosen]].astype(float).T
    part = part.astype(int)
    faces, barycentric, ok = densepose_charts.densepose_to_template(
        read, anny, part, u / 255, v / 255
    )
    assert ok.mean() > 0.99

    weights = np.einsum(
        "nc,ncj->nj", barycentric, anny.weights.double().numpy()[anny.faces.numpy()[faces]]
    )
    share_of = lambda segments, of: np.isin(  # noqa: E731 (one line says it)
        weights[np.isin(part, of)].argmax(1), [SEGMENTS.index(name) for name in segments]
    ).mean()
    for side, hand, lower_arm, upper_arm, lower_leg, foot in (
        ("left_", 4, (19, 21), (15, 17), (12, 14), 5),
        ("right_", 3, (20, 22), (16, 18), (11, 13), 6),
    ):
        assert share_of([side + "wrist", side + "hand"], [hand]) > 0.9
        assert share_of([side + "elbow"], lower_arm) > 0.9
        assert share_of([side + "shoulder"], upper_arm) > 0.9
        assert share_of([side + "knee"], lower_leg) > 0.9
        assert share_of([side + "ankle", side + "foot", side + "knee"], [foot]) > 0.95
    assert share_of(["head", "neck"], [23, 24]) > 0.95
    x = places(anny, faces, barycentric)[:, 0]
    assert (x[np.isin(part, [4, 5, 8, 10, 12, 14, 15, 17, 19, 21])] > -0.01).all()
    assert (x[np.isin(part, [3, 6, 7, 9, 11, 13, 16, 18, 20, 22])] < 0.01).all()


def test_smpl_vertices_of_both_sides_lie_on_mirrored_places(anny):
    """Big toes, small toes, eyes and ears as numbered by smplx, which picked near-mirrored ones."""
    with resources.files("deformlearn").joinpath("assets/smpl_to_anny.npz").open("rb") as file:
        table = np.load(file)
        points = places(anny, table["face"], table["bary"].astype(float))
    for left, right in ((3216, 6617), (3226, 6624), (2800, 6260), (583, 4071)):
        np.testing.assert_allclose(points[left] * [-1, 1, 1], points[right], atol=1e-2)
        assert points[left][0] > 0


# Speed without another answer


def test_candidates_of_a_patch_give_the_exact_searchs_points():
    """Small, large and turned triangles; points in their patches, near and far from the surface."""
    random = np.random.default_rng(0)
    size = np.where(np.arange(600) % 50 == 0, 0.5, 0.05)[:, None, None]
    triangles = random.random((600, 1, 3)) + size * random.normal(size=(600, 3, 3))
    patches = triangles[:200] + 0.02 * random.normal(size=(200, 3, 3))
    patch = random.integers(0, 200, 2000)
    points = np.einsum("nc,ncd->nd", random.dirichlet([1, 1, 1], 2000), patches[patch])
    points[::7] += random.normal(size=points[::7].shape)  # far away
    directions = random.normal(size=(2000, 3))
    _, _, fast = PatchSearch(patches, triangles, 0.01).nearest(patch, points, directions)
    _, _, slow = TriangleSearch(triangles).nearest(points, directions)
    np.testing.assert_allclose(fast, slow, atol=1e-12)


def test_points_facing_no_triangle_are_infinitely_far():
    triangle = np.array([[[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]])
    search = PatchSearch(triangle, triangle, 0.1)
    _, _, distance = search.nearest(
        np.zeros(2, int), np.full((2, 3), 0.2), np.array([[0, 0, 1.0], [0, 0, -1.0]])
    )
    np.testing.assert_allclose(distance, [0.2, np.inf])


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache folder of these tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("DEFORMLEARN_CACHE", str(folder))
        densepose_charts._carried.cache_clear()
        yield folder
    densepose_charts._carried.cache_clear()


@pytest.fixture(scope="module")
def carried(anny, tmp_path_factory, cache) -> CarriedCharts:
    """Charts of 24 small triangles: SMPL vertices and their neighbours on the skin."""
    faces, barycentric = smpl_points_on(anny)
    _, near = cKDTree(places(anny, faces, barycentric)).query(
        places(anny, faces, barycentric)[::280][:24], k=3
    )
    ids = near.ravel()
    mat = planted_mat(tmp_path_factory.mktemp("mat") / "uv.mat", All_vertices=ids[None] + 1)
    return CarriedCharts(densepose_charts.read_densepose_charts(mat), anny)


def test_the_table_gives_the_exact_points_of_eight_bit_labels(carried):
    random = np.random.default_rng(0)
    part = random.integers(-1, 27, 5000)
    u, v = random.integers(0, 256, (2, 5000)).astype(np.uint8)
    assert not carried.has_table
    exact = carried.points(part, u / 255, v / 255)
    quick = carried.points_of_bytes(part, u, v)
    assert carried.has_table
    for one, other in zip(exact, quick, strict=True):
        np.testing.assert_array_equal(one, other)
    assert exact[2].any()
    assert not exact[2][(part < 1) | (part > 24)].any()


def test_the_table_is_kept_and_a_damaged_one_is_made_again(carried, anny, monkeypatch):
    _ = carried.table
    again = CarriedCharts(carried.charts, anny)
    assert again.has_table
    with monkeypatch.context() as patch:
        patch.setattr(CarriedCharts, "_make_table", None)
        np.testing.assert_array_equal(again.table, carried.table)
    content = carried.table_path.read_bytes()
    for damaged in (content[:100], b"\xff\xff\xff\x7f" * (len(content) // 4)):
        carried.table_path.write_bytes(damaged)
        with monkeypatch.context() as patch:
            patch.setattr(CarriedCharts, "_make_table", lambda self: carried.table)
            _ = CarriedCharts(carried.charts, anny).table
        assert carried.table_path.read_bytes() == content


def test_labels_are_looked_up_only_where_they_are_of_eight_bits(carried, anny, monkeypatch):
    _ = carried.table
    asked = []
    original = CarriedCharts.points_of_bytes

    def spy(self, part, u, v):
        asked.append(len(part))
        return original(self, part, u, v)

    monkeypatch.setattr(CarriedCharts, "points_of_bytes", spy)
    u = np.array([0.0, 17, 255]) / 255
    part = np.array([1, 2, 3])
    densepose_charts.densepose_to_template(carried.charts, anny, part, u, u)
    assert asked == [3]
    densepose_charts.densepose_to_template(carried.charts, anny, part, u + 1e-6, u)
    densepose_charts.densepose_to_template(carried.charts, anny, part, u * np.nan, u)
    assert asked == [3]


def test_labels_that_are_no_numbers_are_not_ok(carried):
    _, _, ok = carried.points(np.array([1, 1]), np.array([np.nan, 0.5]), np.array([0.5, 0.5]))
    assert ok.tolist() == [False, True]


# Other templates


def smpl_like(anny):
    """A template with a mesh of SMPL's size: a strip of triangles, its corners in another order."""
    count = 6890
    angle = np.arange(count) * 0.01
    vertices = np.stack([np.cos(angle), np.arange(count) * 1e-3, np.sin(angle)], -1)
    strip = np.stack([np.arange(count - 2), np.arange(1, count - 1), np.arange(2, count)], -1)
    more = np.stack([np.arange(count - 2), np.arange(2, count), np.arange(1, count - 1)], -1)
    faces = np.roll(np.concatenate([strip, more])[:13776], 1, axis=1)
    return replace(
        anny,
        name="smpl",
        vertices=torch.from_numpy(vertices).float(),
        faces=torch.from_numpy(faces),
        weights=torch.eye(24)[np.arange(count) % 24],
        mirror=torch.arange(count),
    )


def test_on_smpls_own_mesh_the_point_of_the_chart_is_a_point_of_the_mesh(anny):
    """No blending and no search for a nearest surface: the chart triangle is a face."""
    body = smpl_like(anny)
    corners = np.stack([np.arange(24) * 7, np.arange(24) * 7 + 2, np.arange(24) * 7 + 1], -1)
    uv = np.tile([[0, 0], [1, 0], [0, 1]], (24, 1, 1)).astype(float)
    found = Charts(np.arange(1, 25), uv, corners)
    part = np.array([1, 5, 24])
    faces, barycentric, ok = CarriedCharts(found, body).points(
        part, np.array([0.25, 0.1, 1.0]), np.array([0.5, 0.2, 1.0])
    )
    assert ok.all()
    weights = np.array([[0.25, 0.25, 0.5], [0.7, 0.1, 0.2], [0, 0.5, 0.5]])
    wanted = np.einsum("nc,ncd->nd", weights, body.vertices.double().numpy()[corners[part - 1]])
    np.testing.assert_allclose(places(body, faces, barycentric), wanted, atol=1e-6)


def test_on_smpls_vertices_with_other_triangles_points_are_blended(anny):
    body = smpl_like(anny)
    corners = np.stack([np.arange(24) * 7, np.arange(24) * 7 + 1, np.arange(24) * 7 + 3], -1)
    uv = np.tile([[0, 0], [1, 0], [0, 1]], (24, 1, 1)).astype(float)
    carried = CarriedCharts(Charts(np.arange(1, 25), uv, corners), body)
    _, barycentric, ok = carried.points(np.array([3]), np.array([0.3]), np.array([0.3]))
    assert ok.all()
    np.testing.assert_allclose(barycentric.sum(), 1)
