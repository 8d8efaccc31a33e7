"""Sources read as an importer reads them, and what must hold of everyone they give."""

import pickle

import numpy as np

from deformlearn.data.soundness import Rejected
from deformlearn.data.sources import Frame, Person
from deformlearn.errors import InputError
from deformlearn.skeleton import joint_set


def everyone(source):
    """What an importer makes of a source in one process."""
    for entry in source.entries():
        if isinstance(entry, Rejected):
            yield entry
            continue
        try:
            yield from source.people(pickle.loads(pickle.dumps(entry)))
        except InputError as error:
            yield Rejected(entry.where, str(error))


def sorted_out(source):
    """The people of a source, and what it rejects."""
    found = list(everyone(source))
    rejected = [one for one in found if isinstance(one, Rejected)]
    return [one for one in found if not isinstance(one, Rejected)], rejected


def require_sound(one, joints):
    """Whatever a damaged file says, a person that comes out of it can be used."""
    if isinstance(one, Rejected):
        assert one.where
        assert one.reason
        assert "\n" not in one.reason
        return
    assert isinstance(one, Person)
    assert one.key
    assert (one.image.video if isinstance(one.image, Frame) else one.image).is_absolute()
    assert np.isfinite(one.box).all()
    assert one.box[2] > 0
    assert one.box[3] > 0
    assert one.keypoints.shape == (len(joint_set(joints)), 2)
    assert one.keypoint_weights.shape == (len(joint_set(joints)),)
    assert np.isfinite(one.keypoints).all()
    assert ((one.keypoint_weights >= 0) & (one.keypoint_weights <= 1)).all()
    if one.dense is not None:
        assert np.isfinite(one.dense.pixels).all()
        assert ((one.dense.part >= 1) & (one.dense.part <= 24)).all()
        assert ((one.dense.uv >= 0) & (one.dense.uv <= 1)).all()
        assert len({len(values) for values in vars(one.dense).values()}) == 1


def read_damaged(source, path, content):
    """Every result of a damaged file: an InputError of one line, or sound people and reasons."""
    path.write_bytes(content)
    try:
        found = list(everyone(source))
        joints = source.joints
    except InputError:
        return
    for one in found:
        require_sound(one, joints)
