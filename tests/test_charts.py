import numpy as np
import pytest

from deformlearn import charts
from deformlearn.chart_search import ChartSearch
from deformlearn.charts import Charts
from deformlearn.skeleton import SEGMENTS, mirrored_name
from deformlearn.triangles import TriangleSearch

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


def slow_nearest(parts, uv, part, points):
    """Every triangle of the part compared, in space, each part on a plane of its own."""
    flat = np.concatenate([uv, np.broadcast_to(4.0 * parts[:, None, None], (*uv.shape[:2], 1))], -1)
    placed = np.concatenate([points, 4.0 * part[:, None]], -1)
    faces, barycentric, distance = TriangleSearch(flat).nearest(placed)
    return np.einsum("nc,ncd->nd", barycentric, uv[faces]), distance


def random_triangles(count, seed):
    """Overlapping, turned and flat triangles of three parts, some of them sharing edges."""
    random = np.random.default_rng(seed)
    corners = random.random((count, 3, 2))
    corners[1::3, :2] = corners[::3, [1, 0]][: len(corners[1::3])]
    corners[5] = corners[5, 0] + np.linspace(0, 0.2, 3)[:, None] * [1, 2]
    corners[6] = corners[6, 0]
    return np.clip(corners, 0, 1), np.arange(count) // 3 % 3 + 1


def two_triangles() -> Charts:
    """Part 1 is the lower left half of the unit square, part 2 the whole square's upper half."""
    uv = np.array([[[0, 0], [1, 0], [0, 1]], [[0, 0.5], [1, 0.5], [0.5, 1]]], float)
    return Charts(np.array([1, 2]), uv, np.array([[0, 1, 2], [3, 4, 5]]))


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


@pytest.mark.parametrize("count", [9, 60, 400])
def test_the_grid_agrees_with_comparing_every_triangle(count):
    uv, parts = random_triangles(count, seed=count)
    random = np.random.default_rng(1)
    part = random.integers(1, 4, 3000)
    points = random.random((3000, 2))
    points[:300] = uv.reshape(-1, 2)[random.integers(0, 3 * count, 300)]  # on corners
    points[300:320] = [0, 1]
    faces, barycentric, inside = ChartSearch(parts, uv).nearest(part, points)
    np.testing.assert_array_equal(parts[faces], part)
    np.testing.assert_allclose(barycentric.sum(-1), 1)
    assert barycentric.min() >= 0
    found = np.einsum("nc,ncd->nd", barycentric, uv[faces])
    _, distance = slow_nearest(parts, uv, part, points)
    np.testing.assert_allclose(np.linalg.norm(found - points, axis=-1), distance, atol=1e-8)
    np.testing.assert_allclose(distance[inside], 0, atol=1e-8)
    assert 0 < inside.mean() < 1


def test_the_default_bodys_charts_give_the_slow_searchs_points(anny_charts):
    random = np.random.default_rng(0)
    part = random.integers(1, 25, 2000)
    points = random.random((2000, 2))
    faces, barycentric = anny_charts.chart_to_surface(part, *points.T)
    found = np.einsum("nc,ncd->nd", barycentric, anny_charts.uv[faces])
    charted = anny_charts.parts > 0
    _, distance = slow_nearest(anny_charts.parts[charted], anny_charts.uv[charted], part, points)
    np.testing.assert_allclose(np.linalg.norm(found - points, axis=-1), distance, atol=1e-8)


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
