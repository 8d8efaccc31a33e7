"""The names users build on; removing one is a decision, not an accident."""

import pytest

import deformlearn

PUBLIC = """
    BodyParameters BodyTemplate Camera Crop Estimate Estimates InputError Lifter LifterConfig Observations
    Quality RegistrationConfig Regressor RegressorConfig RunConfig SyntheticConfig camera_joints
    deform_and_learn fit_dataset fit_keypoints fit_photograph load_lifter load_network load_template
    predict_images project_points read_estimates register skin synthesize write_bvh write_estimates
    write_glb write_npz write_obj write_onnx write_ply write_smpl __version__
""".split()


def test_exactly_the_public_names_are_public():
    assert sorted(deformlearn.__all__) == sorted(PUBLIC)
    assert set(PUBLIC) <= set(dir(deformlearn))


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there_and_documented(name):
    value = getattr(deformlearn, name)
    assert name == "__version__" or value.__doc__


def test_other_names_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        deformlearn.nothing  # noqa: B018
