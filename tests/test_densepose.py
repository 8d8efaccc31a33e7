import numpy as np
import pytest
import scipy.io
from PIL import Image

from deformlearn.data.densepose import channel_order, halve_points, people_rows, photo_size
from deformlearn.data.densepose import read_iuv as read_iuv_of_size
from deformlearn.densepose_charts import read_densepose_charts
from deformlearn.errors import InputError

WIDTH, HEIGHT = 120, 100


def read_iuv(iuv, inds, photo, **options):
    """As it is read with the photograph at hand."""
    return read_iuv_of_size(iuv, inds, photo_size(photo), **options)


class Folder:
    """A photo, its IUV and INDS: two people, the lower-scored one (number 0) on the left."""

    def __init__(self, path):
        self.iuv, self.inds, self.photo = path / "a_IUV.png", path / "a_INDS.png", path / "a.png"
        self.part, self.u, self.v, self.person = np.zeros((4, HEIGHT, WIDTH), np.uint8)
        self.add(0, 10, 20, 50, 80)
        self.add(1, 60, 10, 100, 90)
        Image.new("RGB", (WIDTH, HEIGHT)).save(self.photo)

    def add(self, person, left, top, right, bottom):
        """A rectangle of a person, its rows shared out among the 24 parts."""
        here = np.s_[top:bottom, left:right]
        rows = np.arange(bottom - top)[:, None]
        self.part[here] = 1 + rows * 24 // (bottom - top)
        self.u[here] = 40 + np.arange(right - left)
        self.v[here] = 200
        self.person[here] = person

    def write(self, order="VUI"):
        planes = {"I": self.part, "U": self.u, "V": self.v}
        Image.fromarray(np.stack([planes[channel] for channel in order], -1)).save(self.iuv)
        Image.fromarray(self.person).save(self.inds)
        return self.iuv, self.inds, self.photo


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


# Reading


@pytest.mark.parametrize("order", ["VUI", "IUV"])
def test_people_are_read_with_either_order_of_channels(folder, order):
    first, second = read_iuv(*folder.write(order))
    assert channel_order(folder.iuv) == ", ".join(order)
    assert (first.index, second.index) == (0, 1)
    assert first.box == (10, 20, 50, 80)
    assert second.box == (60, 10, 100, 90)
    assert len(first.pixels) == 40 * 60
    row = first.pixels.tolist().index([10, 20])
    assert (first.part[row], first.u[row], first.v[row]) == (1, 40 / 255, 200 / 255)
    assert first.usable
    assert first.notes == ()
    assert first.score is None
    assert (first.weights == 1).all()


def test_without_the_photo_the_iuv_image_gives_the_size(folder):
    folder.add(3, 0, 30, 50, 60)
    iuv, inds, _ = folder.write()
    people = read_iuv_of_size(iuv, inds, None)
    assert "cut by the frame" in people[-1].notes


def test_without_inds_all_pixels_are_one_person(folder):
    iuv, _, photo = folder.write()
    (everyone,) = read_iuv(iuv, None, photo)
    assert everyone.box == (10, 10, 100, 90)


def test_a_small_person_is_reported_but_not_usable(folder):
    folder.add(2, 0, 0, 8, 24)
    small = read_iuv(*folder.write())[2]
    assert not small.usable
    assert small.notes == ("skipped: 192 pixels, more than 1500 are needed", "cut by the frame")
    assert read_iuv(*folder.write(), min_pixels=191)[2].usable


@pytest.mark.parametrize(
    "edge", [(0, 30, 50, 60), (60, 0, 100, 90), (60, 10, WIDTH, 90), (60, 10, 99, HEIGHT)]
)
def test_a_person_cut_by_the_frame_is_noted(folder, edge):
    folder.add(3, *edge)
    assert "cut by the frame" in read_iuv(*folder.write())[-1].notes


def test_a_person_of_few_parts_is_noted(folder):
    folder.part[(folder.person == 1) & (folder.part > 5)] = 0
    for plane in (folder.u, folder.v, folder.person):
        plane[folder.part == 0] = 0
    hidden = read_iuv(*folder.write(), min_pixels=100)[1]
    assert hidden.notes == ("partly hidden: 5 of 24 parts are seen",)


# Refusals


def test_an_image_without_people_is_refused(folder):
    folder.part[:], folder.u[:], folder.v[:] = 0, 0, 0
    with pytest.raises(InputError, match="shows no person"):
        read_iuv(*folder.write())


def test_a_part_over_24_is_refused(folder):
    folder.part[30, 20] = 25
    with pytest.raises(InputError, match=r"is not an IUV image.*\[200, 79, 25\]"):
        read_iuv(*folder.write())


def test_uv_outside_every_part_is_refused(folder):
    folder.part[20:80, 10:50] = 0
    with pytest.raises(InputError, match="is not an IUV image"):
        read_iuv(*folder.write())


def test_channels_that_could_both_be_parts_are_refused(folder):
    folder.v[folder.part > 0] = 9
    with pytest.raises(InputError, match=r"is ambiguous.*write it again as OpenCV does"):
        read_iuv(*folder.write())


@pytest.mark.parametrize("which", ["iuv", "inds", "photo"])
def test_missing_foreign_and_truncated_images_are_refused(folder, which):
    files = folder.write()
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(noise).save(folder.photo)
    path = getattr(folder, which)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="cannot be read to its end"):
        read_iuv(*files)
    path.write_bytes(b"not an image")
    with pytest.raises(InputError, match="is not an image file"):
        read_iuv(*files)
    path.unlink()
    with pytest.raises(InputError, match="does not exist"):
        read_iuv(*files)
    path.mkdir()
    with pytest.raises(InputError, match="is a folder; give one file"):
        read_iuv(*files)


@pytest.mark.parametrize("which", ["iuv", "inds"])
def test_images_of_another_size_than_the_photo_are_refused(folder, which):
    files = folder.write()
    path = getattr(folder, which)
    with Image.open(path) as image:
        image.resize((60, 50), Image.Resampling.NEAREST).save(path)
    with pytest.raises(InputError, match=r"is 60x50 pixels but the photo is 120x100"):
        read_iuv(*files)


def test_images_with_other_channels_are_refused(folder):
    iuv, inds, photo = folder.write()
    with pytest.raises(InputError, match="mode L; wanted three 8-bit channels"):
        read_iuv(inds, inds, photo)
    with pytest.raises(InputError, match="mode RGB; wanted one 8-bit channel"):
        read_iuv(iuv, iuv, photo)


def test_a_photo_stored_turned_is_refused(folder):
    iuv, inds, photo = folder.write()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(photo.with_suffix(".jpg"), exif=exif)
    with pytest.raises(InputError, match="stored turned"):
        read_iuv(iuv, inds, photo.with_suffix(".jpg"))


# Rows


@pytest.fixture
def nose_charts(tmp_path):
    """Charts whose every triangle is at the same SMPL vertex, the nose."""
    path = tmp_path / "uv.mat"
    scipy.io.savemat(
        path,
        {
            "All_FaceIndices": np.arange(1, 25)[:, None],
            "All_Faces": np.arange(1, 73).reshape(24, 3),
            "All_U_norm": np.tile([0.0, 1.0, 0.0], 24)[:, None],
            "All_V_norm": np.tile([0.0, 0.0, 1.0], 24)[:, None],
            "All_vertices": np.full((1, 72), 333),
        },
    )
    return read_densepose_charts(path)


def test_a_row_has_pixel_centres_a_square_crop_and_no_keypoints(folder, nose_charts, anny):
    people = read_iuv(*folder.write())
    first, second = people_rows(people, folder.photo, nose_charts, anny, points=50)
    assert first.key == "a-00"
    assert first.crop == (30, 50, pytest.approx(33))
    assert second.crop == (80, 50, pytest.approx(44))
    assert first.points.shape == (50, 2)
    assert (first.points % 1 == 0.5).all()
    assert ((first.points > [10, 20]) & (first.points < [50, 80])).all()
    assert (first.point_weights == 1).all()
    assert first.keypoints.shape == (17, 2)
    assert not first.keypoint_weights.any()
    assert first.image is None
    assert first.image_path == str(folder.photo.absolute())
    nose = anny.surface_points(*map(_tensor, (first.faces, first.barycentric))).rest
    assert (nose[:, 2] > 0.12).all()


def _tensor(array):
    import torch

    return torch.from_numpy(array.astype(np.float32) if array.dtype == float else array)


def test_rows_depend_on_the_seed_and_not_on_other_people(folder, nose_charts, anny):
    people = read_iuv(*folder.write())

    def row(some, seed):
        return people_rows(some, folder.photo, nose_charts, anny, points=50, seed=seed)[-1]

    np.testing.assert_array_equal(row(people, 3).points, row(people[1:], 3).points)
    assert not np.array_equal(row(people, 3).points, row(people, 4).points)


def test_few_pixels_are_all_taken_and_unusable_people_left_out(folder, nose_charts, anny):
    folder.add(2, 110, 50, 118, 74)
    rows = people_rows(read_iuv(*folder.write()), folder.photo, nose_charts, anny, points=10**6)
    assert [len(row.points) for row in rows] == [2400, 3200]
    assert len(np.unique(rows[0].points, axis=0)) == 2400


def test_small_parts_get_more_points_than_their_area(folder, nose_charts, anny):
    folder.part[folder.part > 0] = 1
    folder.part[20:23, 10:50] = 3  # 120 of the first person's 2400 pixels
    (row, _) = people_rows(read_iuv(*folder.write()), folder.photo, nose_charts, anny, points=400)
    small = (row.points[:, 1] < 23).mean()
    assert 0.1 < small < 0.25  # 5 % of the area; sqrt(120) / (sqrt(120) + sqrt(2280)) is 19 %


def test_halves_share_out_the_points(folder, nose_charts, anny):
    row = people_rows(read_iuv(*folder.write()), folder.photo, nose_charts, anny, points=51)[0]
    first, second = halve_points(row, seed=1)
    assert (len(first.points), len(second.points)) == (26, 25)
    assert len(first.faces) == len(first.barycentric) == len(first.point_weights) == 26
    together = np.concatenate([first.points, second.points])
    assert {tuple(p) for p in together} == {tuple(p) for p in row.points}
    np.testing.assert_array_equal(first.points, halve_points(row, seed=1)[0].points)
    assert not np.array_equal(first.points, halve_points(row, seed=2)[0].points)


# Real data


def test_a_real_prediction_gives_its_five_large_people(shared, anny):
    here = shared / "densepose"
    photo = here / "demo_im.jpg"
    people = read_iuv(here / "demo_im_IUV.png", here / "demo_im_INDS.png", photo)
    assert len(people) == 13
    assert [person.index for person in people if person.usable] == [7, 14, 17, 18, 19]
    hidden = [p.index for p in people if p.usable and p.notes]
    assert hidden == [7, 14]
    real = read_densepose_charts(here / "UV_Processed.mat")
    rows = people_rows(people, photo, real, anny)
    assert all(len(row.points) >= 395 for row in rows)
    assert len({row.key for row in rows}) == 5
    # The woman in front: her head is above her feet in the image and on the body.
    row = rows[-2]
    height = anny.surface_points(*map(_tensor, (row.faces, row.barycentric))).rest[:, 1].numpy()
    assert np.corrcoef(height, row.points[:, 1])[0, 1] < -0.8
