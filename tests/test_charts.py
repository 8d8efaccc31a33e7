from dataclasses import replace
from importlib import resources

import numpy as np
import pytest
import scipy.io

from deformlearn import charts
from deformlearn.charts import Charts, TriangleSearch, barycentric_of_nearest
from deformlearn.errors import InputError
from deformlearn.skeleton import SEGMENTS, mirrored_name

SWAP = np.array([SEGMENTS.index(mirrored_name(name)) for name in SEGMENTS])


@pytest.fixture(scope="module")
def anny_charts(anny) -> Charts:
    return charts.template_charts(anny)


def spread_over(template, count, seed=0):
    """Faces and barycentric coordinates of points spread evenly over a surface."""
    random = np.random.default_rng(seed)
    corners = template.vertices.double().numpy()[template.faces.numpy()]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(normal, axis=1)
    faces = random.choice(len(area), count, p=area / area.sum())
    return faces, random.dirichlet([1, 1, 1], count)


def places(template, faces, barycentric):
    corners = template.vertices.double().numpy()[template.faces.numpy()[faces]]
    return np.einsum("nc,ncd->nd", barycentric, corners)


def two_triangles() -> Charts:
    """Part 1 is the lower left half of the unit square, part 2 the whole square's upper half."""
    uv = np.array([[[0, 0], [1, 0], [0, 1]], [[0, 0.5], [1, 0.5], [0.5, 1]]], float)
    return Charts(np.array([1, 2]), uv, np.array([[0, 1, 2], [3, 4, 5]]))


# Nearest points


def nearest_by_a_fine_grid(point, triangle, steps=400):
    u, v = np.meshgrid(np.linspace(0, 1, steps + 1), np.linspace(0, 1, steps + 1))
    inside = u + v <= 1 + 1e-12
    u, v = u[inside], v[inside]
    grid = np.stack([1 - u - v, u, v], -1) @ triangle
    return np.linalg.norm(grid - point, axis=1).min()


def test_the_nearest_point_of_a_triangle_agrees_with_a_fine_grid():
    random = np.random.default_rng(0)
    points, triangles = random.normal(size=(60, 3)), random.normal(size=(60, 3, 3))
    weights = barycentric_of_nearest(points, triangles)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(1), 1)
    found = np.linalg.norm(np.einsum("nc,ncd->nd", weights, triangles) - points, axis=1)
    slow = [nearest_by_a_fine_grid(*pair) for pair in zip(points, triangles, strict=True)]
    assert (found <= np.array(slow) + 1e-12).all()
    np.testing.assert_allclose(found, slow, atol=2e-2)


def test_degenerate_triangles_are_their_edges():
    needle = np.array([[[0, 0, 0], [1, 0, 0], [2, 0, 0]]], float)
    speck = np.ones((1, 3, 3))
    for point, triangle, distance in (
        ([[1.7, 0.5, 0]], needle, 0.5),
        ([[3.0, 0, 0]], needle, 1.0),
        ([[1, 1, 3.0]], speck, 2.0),
    ):
        weights = barycentric_of_nearest(np.array(point), triangle)
        found = np.einsum("nc,ncd->nd", weights, triangle)
        np.testing.assert_allclose(np.linalg.norm(found - point), distance)


@pytest.mark.parametrize("directed", [False, True])
def test_the_search_agrees_with_trying_every_triangle(directed):
    random = np.random.default_rng(1)
    centres = random.normal(size=(300, 1, 3))
    sizes = np.exp(random.normal(-2, 1.5, size=(300, 1, 1)))  # specks and giants
    triangles = centres + sizes * random.normal(size=(300, 3, 3))
    points, directions = random.normal(size=(200, 3)), random.normal(size=(200, 3))

    search = TriangleSearch(triangles)
    faces, weights, distance = search.nearest(points, directions if directed else None)
    all_weights = barycentric_of_nearest(
        np.repeat(points, 300, axis=0), np.tile(triangles, (200, 1, 1))
    ).reshape(200, 300, 3)
    found = np.einsum("nkc,kcd->nkd", all_weights, triangles)
    apart = np.linalg.norm(found - points[:, None], axis=-1)
    if directed:
        apart[directions @ search.normals.T <= 0] = np.inf
    np.testing.assert_allclose(distance, apart.min(1))
    np.testing.assert_array_equal(faces, apart.argmin(1))
    np.testing.assert_allclose(weights, all_weights[np.arange(200), faces])


def test_where_no_triangle_faces_the_same_way_the_distance_is_infinite():
    search = TriangleSearch(np.array([[[0, 0, 0], [1, 0, 0], [0, 1, 0]]], float))
    _, _, distance = search.nearest(np.zeros((2, 3)), np.array([[0, 0, 1.0], [0, 0, -1.0]]))
    assert distance.tolist() == [0, np.inf]


def test_no_points_are_found_nowhere():
    faces, weights, distance = TriangleSearch(
        np.random.default_rng(0).normal(size=(9, 3, 3))
    ).nearest(np.zeros((0, 3)))
    assert (faces.shape, weights.shape, distance.shape) == ((0,), (0, 3), (0,))


# Charts


def test_a_chart_point_inside_a_triangle_is_found_exactly():
    faces, weights = two_triangles().chart_to_surface(
        np.array([1, 2]), np.array([0.25, 0.5]), np.array([0.5, 0.75])
    )
    assert faces.tolist() == [0, 1]
    np.testing.assert_allclose(weights, [[0.25, 0.25, 0.5], [0.25, 0.25, 0.5]])


def test_a_chart_point_outside_goes_to_the_nearest_point_of_its_own_part():
    # (0.5, 0.4) lies in part 1's triangle, but is asked for in part 2.
    faces, weights = two_triangles().chart_to_surface(
        np.array([2, 1]), np.array([0.5, 1.0]), np.array([0.4, 1.0])
    )
    assert faces.tolist() == [1, 0]
    np.testing.assert_allclose(weights, [[0.5, 0.5, 0], [0, 0.5, 0.5]], atol=1e-12)


def test_the_papers_way_takes_the_nearest_vertex_of_the_part():
    faces, weights = two_triangles().chart_to_surface(
        np.array([1, 2]), np.array([0.1, 0.6]), np.array([0.7, 0.9]), exact=False
    )
    assert faces.tolist() == [0, 1]
    assert weights.tolist() == [[0, 0, 1], [0, 0, 1]]


@pytest.mark.parametrize("exact", [True, False])
def test_a_part_that_no_face_has_is_refused(exact):
    with pytest.raises(ValueError, match="no face lies in part 7"):
        two_triangles().chart_to_surface(np.array([7]), np.zeros(1), np.zeros(1), exact=exact)


def test_the_default_body_goes_to_its_charts_and_back(anny, anny_charts):
    faces, barycentric = spread_over(anny, 3000)
    part, u, v = anny_charts.surface_to_chart(faces, barycentric)
    charted = part > 0
    assert charted.mean() > 0.96
    assert min(u.min(), v.min()) >= 0
    assert max(u.max(), v.max()) <= 1
    back = anny_charts.chart_to_surface(part[charted], u[charted], v[charted])
    start = places(anny, faces[charted], barycentric[charted])
    apart = np.linalg.norm(places(anny, *back) - start, axis=1)
    assert np.mean(apart < 1e-6) > 0.998
    again = anny_charts.surface_to_chart(*back)
    np.testing.assert_array_equal(again[0], part[charted])
    np.testing.assert_allclose(again[1], u[charted], atol=1e-9)
    np.testing.assert_allclose(again[2], v[charted], atol=1e-9)


def test_the_nearest_vertex_is_a_coarser_way_back(anny, anny_charts):
    faces, barycentric = spread_over(anny, 2000)
    part, u, v = anny_charts.surface_to_chart(faces, barycentric)
    charted = part > 0
    back = anny_charts.chart_to_surface(part[charted], u[charted], v[charted], exact=False)
    start = places(anny, faces[charted], barycentric[charted])
    apart = np.linalg.norm(places(anny, *back) - start, axis=1)
    assert 0.002 < np.median(apart) < 0.015


def test_every_segment_has_a_chart_and_no_triangle_spans_a_seam(anny, anny_charts):
    assert set(np.unique(anny_charts.parts)) == set(range(25))
    # Neither corner of a small face of a limb is on the other side of its chart.
    elbow = anny_charts.parts == SEGMENTS.index("left_elbow") + 1
    assert np.ptp(anny_charts.uv[elbow][..., 0], axis=1).max() < 0.3


def test_mirrored_points_have_mirrored_chart_coordinates(anny, anny_charts):
    faces = np.arange(len(anny.faces))
    by_corners = {tuple(sorted(face)): i for i, face in enumerate(anny.faces.tolist())}
    mirror = anny.mirror.numpy()[anny.faces.numpy()]
    opposite = np.array([by_corners[tuple(sorted(face))] for face in mirror.tolist()])
    middle = np.full((len(faces), 3), 1 / 3)
    part, u, v = anny_charts.surface_to_chart(faces, middle)
    other, other_u, other_v = anny_charts.surface_to_chart(opposite, middle)
    both = (part > 0) & (other > 0)
    assert both.mean() > 0.75  # the inside of the head has no chart, and many small faces
    same = SWAP[part[both] - 1] + 1 == other[both]
    assert same.mean() > 0.999  # a face shared equally by two segments may go either way
    midline = SWAP[part[both] - 1] == part[both] - 1
    expected = np.where(midline, 1 - u[both], u[both])
    np.testing.assert_allclose(other_u[both][same], expected[same], atol=1e-4)
    np.testing.assert_allclose(other_v[both][same], v[both][same], atol=1e-4)


def test_any_24_segment_template_has_charts(template):
    found = charts.template_charts(template)
    faces, barycentric = spread_over(template, 500)
    part, u, v = found.surface_to_chart(faces, barycentric)
    np.testing.assert_array_equal(part[part > 0], (faces // 8 + 1)[part > 0])
    back = found.chart_to_surface(part[part > 0], u[part > 0], v[part > 0])
    np.testing.assert_array_equal(found.parts[back[0]], part[part > 0])


# DensePose's charts


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
    read = charts.read_densepose_charts(planted_mat(tmp_path / "uv.mat"))
    assert read.parts.tolist() == list(range(1, 25))
    assert read.corners[4].tolist() == [112, 113, 114]
    faces, weights = read.chart_to_surface(np.array([5]), np.array([0.25]), np.array([0.5]))
    assert faces.tolist() == [4]
    np.testing.assert_allclose(weights, [[0.25, 0.25, 0.5]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"All_U_norm": None}, "has no All_U_norm"),
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
        charts.read_densepose_charts(planted_mat(tmp_path / "uv.mat", **changes))


def test_a_file_that_is_no_mat_file_is_refused(tmp_path):
    path = tmp_path / "UV_Processed.mat"
    with pytest.raises(
        InputError, match="does not exist; give the path of DensePose's UV_Processed"
    ):
        charts.read_densepose_charts(path)
    for content in (b"", b"hello", bytes(range(256)) * 8):
        path.write_bytes(content)
        with pytest.raises(InputError, match="is not a MATLAB file"):
            charts.read_densepose_charts(path)


def test_densepose_needs_the_default_body(template, anny, tmp_path):
    read = charts.read_densepose_charts(planted_mat(tmp_path / "uv.mat"))
    nothing = np.zeros(0, int), np.zeros(0), np.zeros(0)
    with pytest.raises(InputError, match=r"only be carried to the template 'anny'.*'octahedra'"):
        charts.densepose_to_template(read, template, *nothing)
    with pytest.raises(InputError, match="only be carried"):
        charts.densepose_to_template(read, replace(anny, faces=anny.faces[:-1]), *nothing)
    assert len(charts.densepose_to_template(read, anny, *nothing)[0]) == 0


def test_charts_of_another_body_than_smpl_are_refused(anny, tmp_path):
    many = np.arange(7000, 7072, dtype=np.uint32)[None]
    read = charts.read_densepose_charts(planted_mat(tmp_path / "uv.mat", All_vertices=many))
    with pytest.raises(InputError, match="SMPL has 6890 vertices"):
        charts.densepose_to_template(read, anny, np.array([1]), np.zeros(1), np.zeros(1))


def test_a_chart_corner_lands_where_the_table_has_its_smpl_vertex(anny, tmp_path):
    """Well-known SMPL ids (smplx): nose 332, left heel 3387, right small toe 6624, ... on Anny."""
    ids = np.full(72, 332)
    ids[:9] = np.repeat([332, 3387, 6624], 3)
    mat = planted_mat(tmp_path / "uv.mat", All_vertices=ids[None] + 1)
    read = charts.read_densepose_charts(mat)
    part = np.array([1, 2, 3])
    faces, weights, ok = charts.densepose_to_template(
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
    read = charts.read_densepose_charts(
        planted_mat(tmp_path / "uv.mat", All_vertices=ids[None] + 1)
    )
    part = np.array([0, 1, 2, 25])
    _, _, ok = charts.densepose_to_template(read, anny, part, np.full(4, 1 / 3), np.full(4, 1 / 3))
    assert ok.tolist() == [False, False, True, False]


def test_real_charts_cover_the_body_close_to_the_skin(anny, shared, monkeypatch):
    """Real pixels: blended points are near the skin, and parts land on their segments."""
    from PIL import Image

    read = charts.read_densepose_charts(shared / "densepose" / "UV_Processed.mat")
    assert read.corners.max() == 6889
    image = np.asarray(Image.open(shared / "densepose" / "demo_im_IUV.png"))
    y, x = np.nonzero(image[..., 2])
    chosen = np.random.default_rng(0).choice(len(y), 4000, replace=False)
    v, u, part = image[y[chosen], x[chosen]].astype(float).T
    distances = []
    nearest = TriangleSearch.nearest

    def spy(self, points, directions=None):
        found = nearest(self, points, directions)
        distances.append(found[2])
        return found

    monkeypatch.setattr(TriangleSearch, "nearest", spy)
    part = part.astype(int)
    faces, barycentric, ok = charts.densepose_to_template(read, anny, part, u / 255, v / 255)
    assert ok.mean() > 0.99
    assert np.median(distances[-1]) < 0.005

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
