"""Names, the tree, shapes and a user's word: which bone becomes which segment (mapping, names)."""

import json
from dataclasses import replace

import numpy as np
import pytest

from deformlearn.errors import InputError
from deformlearn.rigs import shape
from deformlearn.rigs.mapping import find_segments
from deformlearn.rigs.names import is_finger, thumb_number, trunk_word
from deformlearn.rigs.rig import Rig
from deformlearn.rigs.tree import Tree
from deformlearn.skeleton import SEGMENTS
from rig_files import MIXAMO, RigFile, quadruped, rig_of, turned, with_bones


def sided(middle: str, limbs: str, left: str, right: str) -> dict[str, str]:
    """Names of the segments of midline and limbs; {} in a limb's name is the side."""
    names = dict(pair.split("=") for pair in middle.split())
    for pair in limbs.split():
        segment, name = pair.split("=")
        names |= {f"left_{segment}": name.format(left), f"right_{segment}": name.format(right)}
    return {segment: name.replace("~", " ") for segment, name in names.items()}


CONVENTIONS = {
    "Mixamo": {s: f"mixamorig:{n}" for s, n in MIXAMO.items()},
    "Mixamo, colon lost": {s: f"mixamorig9{n}" for s, n in MIXAMO.items()},
    "Ready Player Me": MIXAMO,
    "Unreal": sided(
        "pelvis=pelvis spine1=spine_01 spine2=spine_02 spine3=spine_03 neck=neck_01 head=head",
        "hip=thigh_{} knee=calf_{} ankle=foot_{} foot=ball_{} collar=clavicle_{} shoulder=upperarm_{} "
        "elbow=lowerarm_{} wrist=hand_{} hand=middle_01_{}", "l", "r",
    ),
    "Unity": sided(
        "pelvis=Hips spine1=Spine spine2=Chest spine3=UpperChest neck=Neck head=Head",
        "hip={}UpperLeg knee={}LowerLeg ankle={}Foot foot={}Toes collar={}Shoulder "
        "shoulder={}UpperArm elbow={}LowerArm wrist={}Hand hand={}MiddleProximal", "Left", "Right",
    ),
    "VRoid": sided(
        "pelvis=J_Bip_C_Hips spine1=J_Bip_C_Spine spine2=J_Bip_C_Chest spine3=J_Bip_C_UpperChest "
        "neck=J_Bip_C_Neck head=J_Bip_C_Head",
        "hip=J_Bip_{}_UpperLeg knee=J_Bip_{}_LowerLeg ankle=J_Bip_{}_Foot foot=J_Bip_{}_ToeBase "
        "collar=J_Bip_{}_Shoulder shoulder=J_Bip_{}_UpperArm elbow=J_Bip_{}_LowerArm "
        "wrist=J_Bip_{}_Hand hand=J_Bip_{}_Middle1", "L", "R",
    ),
    "Rigify": sided(
        "pelvis=DEF-spine spine1=DEF-spine.001 spine2=DEF-spine.002 spine3=DEF-spine.003 "
        "neck=DEF-spine.004 head=DEF-spine.006",
        "hip=DEF-thigh.{} knee=DEF-shin.{} ankle=DEF-foot.{} foot=DEF-toe.{} collar=DEF-shoulder.{} "
        "shoulder=DEF-upper_arm.{} elbow=DEF-forearm.{} wrist=DEF-hand.{} hand=DEF-f_middle.01.{}",
        "L", "R",
    ),
    "Quaternius": sided(
        "pelvis=Hips spine1=Abdomen spine2=Torso spine3=Chest neck=Neck head=Head",
        "hip=UpperLeg.{} knee=LowerLeg.{} ankle=Foot.{} foot=Toes.{} collar=Shoulder.{} "
        "shoulder=UpperArm.{} elbow=LowerArm.{} wrist=Hand.{} hand=Middle2.{}", "L", "R",
    ),
    "Character Creator": sided(
        "pelvis=CC_Base_Hip spine1=CC_Base_Waist spine2=CC_Base_Spine01 spine3=CC_Base_Spine02 "
        "neck=CC_Base_NeckTwist01 head=CC_Base_Head",
        "hip=CC_Base_{}_Thigh knee=CC_Base_{}_Calf ankle=CC_Base_{}_Foot foot=CC_Base_{}_ToeBase "
        "collar=CC_Base_{}_Clavicle shoulder=CC_Base_{}_Upperarm elbow=CC_Base_{}_Forearm "
        "wrist=CC_Base_{}_Hand hand=CC_Base_{}_Mid1", "L", "R",
    ),
    "3ds Max biped": sided(
        "pelvis=Bip01~Pelvis spine1=Bip01~Spine spine2=Bip01~Spine1 spine3=Bip01~Spine2 "
        "neck=Bip01~Neck head=Bip01~Head",
        "hip=Bip01~{}~Thigh knee=Bip01~{}~Calf ankle=Bip01~{}~Foot foot=Bip01~{}~Toe0 "
        "collar=Bip01~{}~Clavicle shoulder=Bip01~{}~UpperArm elbow=Bip01~{}~Forearm "
        "wrist=Bip01~{}~Hand hand=Bip01~{}~Finger2", "L", "R",
    ),
    "Daz": sided(
        "pelvis=hip spine1=abdomenLower spine2=abdomenUpper spine3=chestLower neck=neckLower head=head",
        "hip={}ThighBend knee={}Shin ankle={}Foot foot={}Toe collar={}Collar shoulder={}ShldrBend "
        "elbow={}ForearmBend wrist={}Hand hand={}Mid1", "l", "r",
    ),
    "Daz Genesis 9": sided(
        "pelvis=hip spine1=spine1 spine2=spine2 spine3=spine3 neck=neck1 head=head",
        "hip={}_thigh knee={}_shin ankle={}_foot foot={}_toes collar={}_shoulder shoulder={}_upperarm "
        "elbow={}_forearm wrist={}_hand hand={}_mid1", "l", "r",
    ),
    "Maya": sided(
        "pelvis=root_jnt spine1=spine1_jnt spine2=spine2_jnt spine3=spine3_jnt neck=neck_jnt head=head_jnt",
        "hip={}_hip_jnt knee={}_knee_jnt ankle={}_ankle_jnt foot={}_ball_jnt collar={}_clav_jnt "
        "shoulder={}_shoulder_jnt elbow={}_elbow_jnt wrist={}_wrist_jnt hand={}_middle1_jnt", "L", "R",
    ),
    "MakeHuman": sided(
        "pelvis=root spine1=spine04 spine2=spine03 spine3=spine02 neck=neck01 head=head",
        "hip=upperleg01.{} knee=lowerleg01.{} ankle=foot.{} foot=toe1-1.{} collar=clavicle.{} "
        "shoulder=upperarm01.{} elbow=lowerarm01.{} wrist=wrist.{} hand=finger3-1.{}", "L", "R",
    ),
    "joints by their own names": {s: s for s in SEGMENTS},
    "SMPL's": sided(
        "pelvis=Pelvis spine1=Spine1 spine2=Spine2 spine3=Spine3 neck=Neck head=Head",
        "hip={}_Hip knee={}_Knee ankle={}_Ankle foot={}_Foot collar={}_Collar shoulder={}_Shoulder "
        "elbow={}_Elbow wrist={}_Wrist hand={}_Hand", "L", "R",
    ),
    "one word a limb": sided(
        "pelvis=torso_1 spine1=torso_2 spine2=torso_3 spine3=torso_4 neck=neck_1 head=neck_2",
        "hip=leg_{}_1 knee=leg_{}_2 ankle=leg_{}_3 foot=leg_{}_4 collar=arm_{}_1 shoulder=arm_{}_2 "
        "elbow=arm_{}_3 wrist=arm_{}_4 hand=arm_{}_5", "L", "R",
    ),
    "lower case in one": sided(
        "pelvis=hips spine1=spine spine2=chest spine3=upperchest neck=neck head=head",
        "hip={}upleg knee={}leg ankle={}foot foot={}toebase collar={}shoulder shoulder={}arm "
        "elbow={}forearm wrist={}hand hand={}handmiddle1", "left", "right",
    ),
}  # fmt: skip


def as_rig(file: RigFile) -> Rig:
    """What a reader would make of a rig file."""
    few = np.argsort(-file.weights, 1, kind="stable")[:, :8]
    weights = np.take_along_axis(file.weights, few, 1)
    weights = weights / weights.sum(1, keepdims=True)
    return Rig(
        "rig", file.vertices, file.faces, file.bones, file.parents, file.joints, few, weights
    )


def reordered(file: RigFile, order) -> RigFile:
    """The same rig with its bones listed in another order."""
    parents = (file.parents[i] for i in order)
    return replace(
        file,
        bones=tuple(file.bones[i] for i in order),
        parents=tuple(-1 if parent < 0 else order.index(parent) for parent in parents),
        joints=file.joints[order],
        weights=file.weights[:, order],
    )


def with_extras(file: RigFile, *bones) -> RigFile:
    """Bones that take some skin of their parents', each listed as the first of its siblings."""
    count = len(file.bones)
    file = with_bones(file, *bones)
    weights = file.weights.copy()
    for bone in range(count, len(file.bones)):
        weights[:, bone] = 0.2 * weights[:, file.parents[bone]]
        weights[:, file.parents[bone]] *= 0.8
    order: list[int] = []
    level = [-1]
    while level:
        level = [
            bone
            for bone in sorted(range(len(file.bones)), key=lambda bone: (bone < count, bone))
            if file.parents[bone] in level
        ]
        order += level
    return reordered(replace(file, weights=weights), order)


def found_in(file: RigFile, mapping=None) -> dict[str, tuple[str, ...]]:
    return {found.segment: found.bones for found in find_segments(as_rig(file), mapping)}


def how(file: RigFile, mapping=None) -> dict[str, str]:
    return {found.segment: found.how for found in find_segments(as_rig(file), mapping)}


# Names


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_the_segments_are_found_by_the_names_of(convention, anny):
    names = CONVENTIONS[convention]
    file = rig_of(anny, names)
    assert {s: b[0] for s, b in found_in(file).items()} == names
    assert set(how(file).values()) == {"name", "chain"}


def test_a_shoulder_is_a_collar_bone_only_where_an_arm_hangs_on_it(anny):
    names = {s: n for s, n in CONVENTIONS["SMPL's"].items() if not s.endswith("collar")}
    found = found_in(rig_of(anny, names))
    assert found["left_shoulder"] == ("L_Shoulder",)
    assert found["left_collar"] == ()
    assert found_in(rig_of(anny, MIXAMO))["left_collar"] == ("LeftShoulder",)


def test_helpers_are_not_taken_for_what_they_help(anny):
    file = with_bones(
        rig_of(anny, CONVENTIONS["Unreal"]),
        ("ik_foot_root", None, (0, 0, 0)), ("ik_foot_l", "ik_foot_root", (0.1, 0, 0)),
        ("upperarm_twist_01_l", "upperarm_l", (0.1, 0, 0)), ("ik_hand_gun", None, (0, 1, 0)),
        ("thigh_twist_01_r", "thigh_r", (0, -0.1, 0)), ("hair_head", "head", (0, 0.1, 0)),
    )  # fmt: skip
    moving = file.weights.copy()
    for helper in file.bones[24:]:  # each moves a little: weight alone must not decide
        moving[:, file.bones.index(helper)] += 0.01
    found = found_in(replace(file, weights=moving))
    assert {s: b[0] for s, b in found.items()} == CONVENTIONS["Unreal"]


def test_a_limb_cut_into_two_bones_begins_with_the_upper_one(anny):
    file = with_bones(
        rig_of(anny, CONVENTIONS["Rigify"]), ("DEF-upper_arm.L.001", "DEF-upper_arm.L", (0.1, 0, 0))
    )
    weights = file.weights.copy()
    weights[:, -1] = 0.2
    found = found_in(replace(file, weights=weights))
    assert found["left_shoulder"] == ("DEF-upper_arm.L",)


def test_fingers_bend_with_the_hand_and_the_thumb_does_not(anny):
    fingers = [f"LeftHand{name}{i}" for name in ("Thumb", "Index", "Ring", "Pinky") for i in (1, 2)]
    file = with_bones(
        rig_of(anny, MIXAMO),
        *((f, "LeftHand" if f.endswith("1") else f[:-1] + "1", (0.05, 0, 0)) for f in fingers),
    )
    weights = file.weights.copy()
    weights[:, 24:] = 0.1
    hand = found_in(replace(file, weights=weights))["left_hand"]
    assert hand[0] == "LeftHandMiddle1"
    assert set(hand[1:]) == {"LeftHandIndex1", "LeftHandRing1", "LeftHandPinky1"}


def test_bones_of_the_palm_are_no_fingers(anny):
    palm = [
        ("l_indexmetacarpal", "l_hand", (0.03, 0, 0)),
        ("l_index1", "l_indexmetacarpal", (0.05, 0, 0)),
    ]
    found = found_in(with_extras(rig_of(anny, CONVENTIONS["Daz Genesis 9"]), *palm))
    assert found["left_hand"] == ("l_mid1", "l_index1")


def test_correctives_of_a_wrist_are_no_hand(anny):
    wrist = [("wrist_inner_l", "hand_l", (0, 0.02, 0)), ("wrist_outer_l", "hand_l", (0, -0.02, 0))]
    found = found_in(with_extras(rig_of(anny, CONVENTIONS["Unreal"]), *wrist))
    assert found["left_wrist"] == ("hand_l",)
    assert found["left_hand"] == ("middle_01_l",)


@pytest.mark.parametrize(
    ("name", "parent"),
    [
        ("Necklace1", "Spine2"),
        ("NeckTie", "Spine2"),
        ("Headphones", "Neck"),
        ("HeadHalo", "Spine2"),
    ],
)
def test_what_is_worn_on_neck_and_head_is_neither(anny, name, parent):
    found = found_in(with_extras(rig_of(anny, MIXAMO), (name, parent, (0, 0.03, 0.1))))
    assert {s: b[0] for s, b in found.items()} == MIXAMO


def test_bones_without_skin_are_left_alone(anny):
    """Many files carry a second skeleton of controls with the same names."""
    copies = [(f"ORG-{name}", None, (0, 0, 0)) for name in CONVENTIONS["Rigify"].values()]
    file = with_bones(rig_of(anny, CONVENTIONS["Rigify"]), *copies)
    file = reordered(file, [*range(24, 48), *range(24)])  # even where they come first
    assert {s: b[0] for s, b in found_in(file).items()} == CONVENTIONS["Rigify"]


@pytest.mark.parametrize(
    ("name", "word"),
    [("Head", "head"), ("mixamorig:HeadTop_End", ""), ("CC_Base_NeckTwist01", ""), ("Hips", "pelvis"),
     ("LeftHip", ""), ("Spine", "")],
)  # fmt: skip
def test_words_of_the_midline(name, word):
    assert trunk_word(name) == word


def test_a_thumb_is_no_finger_here():
    assert is_finger("LeftHandIndex1")
    assert not is_finger("LeftHandThumb1")
    assert not is_finger("LeftHand")


@pytest.mark.parametrize(
    ("names", "thumb", "finger"),
    [(["Bip01 L Finger0", "Bip01 L Finger01", "Bip01 L Finger2"], "Bip01 L Finger01", "Bip01 L Finger2"),
     (["finger1-1.L", "finger3-1.L"], "finger1-1.L", "finger3-1.L")],
)  # fmt: skip
def test_counted_fingers_begin_with_the_thumb(names, thumb, finger):
    number = thumb_number(names)
    assert not is_finger(thumb, number)
    assert is_finger(finger, number)


# The spine


def test_two_of_five_spine_bones_go_with_their_neighbours(anny):
    file = rig_of(anny, CONVENTIONS["Unreal"])
    # Five bones as in Unreal 5: the middle ones between those of ours.
    spine = [file.bones.index(name) for name in ("pelvis", "spine_01", "spine_02", "spine_03")]
    names, parents, joints = list(file.bones), list(file.parents), list(file.joints)
    middle = (file.joints[spine[1]] + file.joints[spine[2]]) / 2
    file = with_bones(file, ("spine_01b", "spine_01", middle - file.joints[spine[1]]))
    names, parents, joints = list(file.bones), list(file.parents), list(file.joints)
    order = [*range(spine[2]), len(names) - 1, *range(spine[2], len(names) - 1)]
    parents[spine[2]] = len(names) - 1
    weights = file.weights.copy()
    weights[:, -1] = 0.1
    file = RigFile(
        file.vertices, file.faces, tuple(names[i] for i in order),
        tuple(-1 if parents[i] < 0 else order.index(parents[i]) for i in order),
        np.stack(joints)[order], weights[:, order],
    )  # fmt: skip
    found = found_in(file)
    assert [found[f"spine{i}"][0] for i in (1, 2, 3)] == ["spine_01", "spine_02", "spine_03"]


@pytest.mark.parametrize("kept", [(), ("spine1",), ("spine3",), ("spine1", "spine3"), ("spine2",)])
def test_a_short_spine_fills_the_segments_it_is_nearest_to(anny, kept):
    spine = {"spine1", "spine2", "spine3"}
    names = {s: n for s, n in MIXAMO.items() if s not in spine - set(kept)}
    found = found_in(rig_of(anny, names))
    assert {s for s in spine if found[s]} == set(kept)


# Shape


@pytest.mark.parametrize(
    "rows",
    [np.eye(3), [[1, 0, 0], [0, 0, -1], [0, 1, 0]], [[-1, 0, 0], [0, 1, 0], [0, 0, -1]],
     [[0, 0, 1], [0, 1, 0], [-1, 0, 0]]],
    ids=["as it is", "z up", "facing back", "facing the side"],
)  # fmt: skip
def test_without_names_the_shape_tells(anny, rows):
    names = {segment: f"bone{index}" for index, segment in enumerate(SEGMENTS)}
    file = turned(rig_of(anny, names), rows)
    assert {s: b[0] for s, b in found_in(file).items()} == names
    assert set(how(file).values()) == {"geometry", "chain"}


def test_without_names_hands_collars_and_toes_may_be_missing(anny):
    names = {
        segment: f"bone{index}"
        for index, segment in enumerate(SEGMENTS)
        if not segment.endswith(("hand", "collar", "foot"))
    }
    found = found_in(rig_of(anny, names))
    assert {s: b[0] for s, b in found.items() if b} == names


def test_many_nameless_bones_are_each_followed_once_a_direction(template, monkeypatch):
    """Hair and skirts have hundreds of bones, and thousands of pairs of them are mirror images."""
    file = rig_of(template, {segment: f"bone{index}" for index, segment in enumerate(SEGMENTS)})
    head = template.joints[SEGMENTS.index("head")].numpy()
    hair = [(f"hair{i}", "bone15", (0.02 * (-1) ** i, 0.001 * i, 0)) for i in range(100)]
    file = with_bones(file, *hair)
    few = len(hair)
    file = replace(
        file,
        vertices=np.concatenate([file.vertices, np.tile(head, (few, 1))]),
        weights=np.concatenate([file.weights, np.eye(len(file.bones))[-few:]]),
    )
    followed = []
    chain = shape._chain
    monkeypatch.setattr(shape, "_chain", lambda *args: (followed.append(args[2]), chain(*args))[1])
    assert found_in(file)["left_knee"] == ("bone4",)
    assert len(followed) <= 8 * len(file.bones)


def test_an_animal_on_four_legs_is_refused_by_its_shape(anny):
    names = {segment: f"bone{index}" for index, segment in enumerate(SEGMENTS)}
    with pytest.raises(InputError, match="stands on four legs: no person"):
        found_in(quadruped(anny, names))


def test_something_without_limbs_is_refused_with_its_bones_and_what_to_do(anny):
    file = rig_of(anny, {"pelvis": "Door", "spine1": "Hinge", "head": "Handle"})
    with pytest.raises(InputError, match=r"not a person's rig.*left_hip.*Door, Hinge.*JSON"):
        found_in(file)


def test_two_people_in_a_file_are_refused(anny):
    one = rig_of(anny, CONVENTIONS["Mixamo"])
    count, beside = len(one.bones), np.array([1, 0, 0])
    two = replace(
        one,
        vertices=np.concatenate([one.vertices, one.vertices + beside]),
        bones=(*one.bones, *(f"{name}_other" for name in one.bones)),
        parents=(*one.parents, *(p + count if p >= 0 else -1 for p in one.parents)),
        joints=np.concatenate([one.joints, one.joints + beside]),
        weights=np.kron(np.eye(2), one.weights),
    )
    with pytest.raises(InputError, match="holds more than one person"):
        found_in(two)


# A user's word


def written(tmp_path, content) -> object:
    path = tmp_path / "mapping.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_users_word_comes_first_and_the_rest_is_found_by_name(anny, tmp_path):
    mapping = written(tmp_path, {"left_hand": "LeftHand", "left_wrist": None})
    file = rig_of(anny, MIXAMO)
    found, source = found_in(file, mapping), how(file, mapping)
    assert found["left_hand"][0] == "LeftHand"
    assert (found["left_wrist"], source["left_wrist"]) == ((), "placed")
    assert source["left_hand"] == "JSON"
    assert source["right_hand"] == "name"


def test_a_rig_that_tells_nothing_can_be_named_whole(anny, tmp_path):
    jumbled = {segment: f"x{(index * 7) % 24}" for index, segment in enumerate(SEGMENTS)}
    file = rig_of(anny, jumbled)
    flat = replace(file, parents=(-1,) * 24)
    with pytest.raises(InputError, match="name them in a JSON file"):
        found_in(flat)
    found = found_in(flat, written(tmp_path, jumbled))
    assert {s: b[0] for s, b in found.items()} == jumbled


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "must be one object"),
        ({"left_arm": "LeftArm"}, "unknown segments left_arm; known are pelvis"),
        ({"head": "Skull"}, "bones that rig does not have: Skull; it has Hips"),
        ({"head": ["Head"]}, "bones that rig does not have"),
        ({"head": "Head", "neck": "Head"}, "gives Head to more than one segment"),
    ],
)
def test_a_wrong_mapping_is_refused(anny, tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        found_in(rig_of(anny, MIXAMO), written(tmp_path, content))


def test_a_missing_mapping_is_refused(anny, tmp_path):
    with pytest.raises(InputError, match=r"cannot read the mapping .*none\.json"):
        found_in(rig_of(anny, MIXAMO), tmp_path / "none.json")


# The tree


def test_the_tree_knows_what_hangs_below_and_between(template):
    tree = Tree(as_rig(rig_of(template, {s: s for s in SEGMENTS})))
    index = SEGMENTS.index
    assert tree.common([index("left_hand"), index("head")]) == index("spine3")
    assert tree.between(index("spine3"), index("head")) == [index("neck"), index("head")]
    assert tree.between(index("left_hip"), index("head")) == []
    arm = [index(f"left_{joint}") for joint in ("collar", "shoulder", "elbow", "wrist", "hand")]
    assert tree.downwards(arm[0]) == arm
    assert tree.below[index("left_wrist")] == pytest.approx(12)  # its octahedron and the hand's
    assert tree.own[index("left_wrist")] == pytest.approx(6)
