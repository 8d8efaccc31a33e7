import numpy as np
import pytest

from deformlearn.triangles import TriangleSearch, barycentric_of_nearest


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
