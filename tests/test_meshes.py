"""Pieces of a mesh, and what ties them together."""

import numpy as np
import pytest

from deformlearn import meshes
from deformlearn.meshes import bridges


def pieces(sizes, seed=0):
    """Strips of triangles of so many vertices, here and there, and a vertex that no face uses."""
    random = np.random.default_rng(seed)
    vertices, faces, count = [], [], 0
    for size in sizes:
        vertices.append(random.uniform(-1, 1, 3) + 0.1 * random.normal(size=(size, 3)))
        corner = count + np.arange(size - 2)
        faces.append(np.stack([corner, corner + 1, corner + 2], 1))
        count += size
    return np.concatenate([*vertices, [[0.0, 0.0, 0.0]]]), np.concatenate(faces)


@pytest.mark.parametrize(
    "sizes", [[30], [30, 4, 7, 5], [4] * 20, [9, 40, 3, 3, 17, 40, 8], list(range(3, 60))]
)
def test_every_vertex_is_tied_to_the_nearest_of_larger_pieces(sizes):
    vertices, faces = pieces(sizes)
    first = np.concatenate([[0], np.cumsum(sizes)])
    expected = set()
    placed: list[int] = []
    for piece in sorted(range(len(sizes)), key=lambda piece: (-sizes[piece], piece)):
        mine = range(first[piece], first[piece + 1])
        for vertex in mine if placed else ():
            away = np.linalg.norm(vertices[placed] - vertices[vertex], axis=1)
            expected.add((vertex, placed[away.argmin()]))
        placed += mine
    found = bridges(vertices, faces)
    assert len(found) == sum(sizes) - max(sizes)
    assert {(int(a), int(b)) for a, b in found} == expected


def test_a_thousand_pieces_are_put_into_trees_a_few_times_each(monkeypatch):
    tree, planted = meshes.cKDTree, []

    def counted(points):
        planted.append(len(points))
        return tree(points)

    monkeypatch.setattr(meshes, "cKDTree", counted)
    bridges(*pieces([5000] + [4] * 1000))
    assert planted.count(5000) == 1
    assert sum(planted) < 5000 + 4000 * (np.log2(1000) + 1)
