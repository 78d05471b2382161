import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import lebedev_rule
from scipy.spatial.transform import Rotation

from tumble.rotations import GENERIC, Rotations, character_sums, find

RULES = {
    # spec: nodes, degree
    "none": (1, 0),
    "i": (2, 0),
    "T": (12, 2),
    "O": (24, 3),
    "I": (60, 5),
    "Th": (24, 2),
    "Oh": (48, 3),
    "Ih": (120, 5),
    "so3:1": (12, 2),
    "so3:2": (12, 2),
    "so3:3": (24, 3),
    "so3:4": (60, 5),
    "o3:5": (120, 5),
    "so3:6": (26 * 7, 6),
    "so3:7": (26 * 8, 7),
    "o3:7": (2 * 26 * 8, 7),
    "so3:8": (38 * 9, 8),
    "so3:9": (38 * 10, 9),
    "so3:12": (86 * 13, 12),
    "euler:1": (1, 0),
    "euler:2": (18, 2),
    "euler:2i": (36, 2),
    "euler:3": (75, 4),
    "euler:3i": (150, 4),
    "euler:4": (49 * 4, 6),
    "random:7": (7, 0),
    "random:7:3": (7, 0),
}
FRAMES = {"": 1, "@generic": 1, "@random:2:3": 2}


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("spec", RULES)
def test_a_rule_has_its_nodes_and_removes_every_channel_up_to_its_degree_in_every_frame(spec, frame):
    rotations = Rotations.parse(spec + frame)
    nodes, degree = RULES[spec]
    assert (len(rotations), rotations.degree, rotations.name) == (nodes * FRAMES[frame], degree, spec + frame)
    assert float(rotations.residuals(degree)[:, 1:].abs().sum()) < 1e-13
    # The residual is a square; the amplitude itself vanishes to rounding too: Σ_r w_r χ(Q_r X⁻¹) = 0 for any X.
    for probe in Rotations.random(5, seed=1).matrices:
        one = torch.ones(1, 1, dtype=torch.float64)
        sums = character_sums(rotations.matrices, rotations.weights[:, None], probe[None], one, degree)
        assert float(sums[:, 1:].abs().sum()) < 1e-12


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("spec", RULES)
def test_the_next_channel_survives_in_every_frame(spec, frame):
    rotations = Rotations.parse(spec + frame)
    assert float(rotations.residuals(rotations.degree + 1)[:, -1].max()) > 1e-3


@pytest.mark.parametrize("frame", ["", "@generic"])
@pytest.mark.parametrize(("spec", "survivors"), [("T", [3, 4, 6, 7, 8]), ("O", [4, 6, 8]), ("I", [6])])
def test_a_group_leaves_exactly_the_channels_that_have_invariants(spec, survivors, frame):
    left = Rotations.parse(spec + frame).residuals(8)
    expected = torch.zeros(9, dtype=torch.float64)
    expected[0] = 1
    for ell in survivors:
        expected[ell] = {("T", 6): 2}.get((spec, ell), 1)
    torch.testing.assert_close(left, expected.expand(2, 9), atol=1e-13, rtol=0)


@pytest.mark.parametrize("frame", FRAMES)
def test_the_icosahedral_group_removes_seven_to_nine_eleven_thirteen_and_fourteen_too(frame):
    left = Rotations.parse("I" + frame).residuals(15)[0]
    assert [ell for ell in range(1, 16) if left[ell] > 1e-12] == [6, 10, 12, 15]


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("spec", ["i", "Th", "Oh", "Ih", "o3:7", "euler:3i"])
def test_inversion_removes_every_channel_of_odd_parity_in_every_frame(spec, frame):
    rotations = Rotations.parse(spec + frame)
    proper, pseudo = rotations.residuals(15)
    assert rotations.has_inversion
    assert not rotations.is_proper
    assert float(proper[1::2].abs().max()) < 1e-13
    assert float(pseudo[0::2].abs().max()) < 1e-13


def test_without_inversion_proper_and_pseudo_channels_are_left_alike():
    rotations = Rotations.parse("so3:7")
    proper, pseudo = rotations.residuals(9)
    torch.testing.assert_close(proper, pseudo)
    assert rotations.is_proper
    assert not rotations.has_inversion
    assert rotations.opposite() is None


@pytest.mark.parametrize("spec", ["none", "i", "T", "O", "I", "Th", "Oh", "Ih", "so3:3"])
def test_groups_are_closed_and_contain_the_identity_first(spec):
    rotations = Rotations.parse(spec)
    assert rotations.is_group
    assert torch.equal(rotations.matrices[0], torch.eye(3, dtype=torch.float64))
    assert bool((find(rotations.matrices, rotations.matrices) == torch.arange(len(rotations))).all())


@pytest.mark.parametrize("spec", ["so3:7", "euler:3", "random:5"])
def test_grids_and_cosets_are_not_groups(spec):
    assert not Rotations.parse(spec).is_group
    assert not Rotations.parse("O").offset(GENERIC).is_group


def test_unequal_weights_do_not_make_a_group():
    rotations = Rotations(Rotations.parse("i").matrices, torch.tensor([0.25, 0.75]), 0, "lopsided")
    assert not rotations.is_group
    assert not rotations.has_inversion


def test_the_cubic_groups_share_their_axes_and_the_icosahedral_one_contains_the_tetrahedral():
    tetrahedral = Rotations.group("T").matrices
    for name in ("O", "I", "Th", "Oh", "Ih"):
        assert bool((find(tetrahedral, Rotations.group(name).matrices, 1e-15) >= 0).all())
    signed_permutations = Rotations.group("Oh").matrices
    assert torch.equal(signed_permutations.abs().sum(1), torch.ones(48, 3, dtype=torch.float64))


def test_lebedev_three_times_four_angles_is_the_octahedral_group():
    assert torch.equal(Rotations.parse("so3:3").matrices, Rotations.parse("O").matrices)


def test_the_opposite_of_each_node_is_found_after_a_turn_too():
    for frame in ("@generic", "@random:3"):
        rotations = Rotations.parse("o3:7" + frame)
        opposite = rotations.opposite()
        torch.testing.assert_close(rotations.matrices[opposite], -rotations.matrices)
        assert not bool((opposite == torch.arange(len(rotations))).any())
    rotations = Rotations.parse("o3:7")
    shuffled = torch.randperm(len(rotations), generator=torch.Generator().manual_seed(0))
    mixed_up = Rotations(rotations.matrices[shuffled], rotations.weights[shuffled], 7, "shuffled")
    torch.testing.assert_close(mixed_up.matrices[mixed_up.opposite()], -mixed_up.matrices)
    mixed = Rotations(torch.stack([torch.eye(3), -GENERIC]), torch.tensor([0.5, 0.5]), 0, "mixed")
    assert mixed.opposite() is None
    assert not mixed.is_proper


def test_characters_are_those_of_the_rotation_group():
    angle, axis = 1.234, np.array([1.0, 2.0, 2.0]) / 3
    turn = torch.as_tensor(Rotation.from_rotvec(angle * axis).as_matrix())
    one, identity = torch.ones(1, 1, dtype=torch.float64), torch.eye(3, dtype=torch.float64)[None]
    sums = character_sums(turn[None], one, identity, one, 20)
    ell = np.arange(21)
    closed_form = torch.as_tensor(np.sin((2 * ell + 1) * angle / 2) / np.sin(angle / 2))
    torch.testing.assert_close(sums[0, :, 0], closed_form)
    inverting = character_sums(-turn[None], one, identity, one, 20)[..., 0]
    torch.testing.assert_close(inverting[0], closed_form * (-1.0) ** torch.arange(21))
    torch.testing.assert_close(inverting[1], -inverting[0])


def test_large_sums_are_the_same_in_blocks(monkeypatch):
    rotations = Rotations.parse("o3:7@generic")
    whole = rotations.residuals(8)
    monkeypatch.setattr("tumble.rotations.characters._BLOCK", 1000)
    torch.testing.assert_close(rotations.residuals(8), whole, atol=1e-14, rtol=1e-12)
    assert torch.equal(find(rotations.matrices, rotations.matrices), torch.arange(len(rotations)))


@pytest.mark.parametrize("degree", [*range(1, 31), 35, 41])
def test_every_grid_has_positive_weights_and_a_lebedev_rule_that_reaches_its_degree(degree):
    rotations = Rotations.grid(degree)
    assert rotations.degree >= degree
    assert bool((rotations.weights > 0).all())
    probe = Rotations.random(1, seed=degree).matrices
    one = torch.ones(1, 1, dtype=torch.float64)
    sums = character_sums(rotations.matrices, rotations.weights[:, None], probe, one, degree)
    assert float(sums[:, 1:].abs().max()) < 1e-11


def test_lebedev_rules_with_negative_weights_are_passed_over():
    skipped = [order for order in (13, 25, 27) if lebedev_rule(order)[1].min() < 0]
    assert skipped == [13, 25, 27]
    assert len(Rotations.grid(13)) == 86 * 14


def test_random_rotations_are_uniform_on_average_and_the_same_for_the_same_seed():
    n = 4000
    rotations = Rotations.parse(f"random:{n}:11")
    assert torch.equal(rotations.matrices, Rotations.random(n, seed=11).matrices)
    assert not torch.equal(rotations.matrices, Rotations.random(n, seed=12).matrices)
    assert rotations.is_proper
    assert rotations.replicas == n
    # Of n independent rotations (2ℓ+1)/n is left, itself scattered by about sqrt(2) of 1/n.
    left = rotations.residuals(3)[0, 1:] * n / torch.tensor([3, 5, 7])
    assert bool(((left > 0.2) & (left < 3)).all())


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["T", "Oh", "o3:7", "euler:3i", "random:4"]))
def test_an_offset_keeps_what_a_rule_removes_and_leaves(seed, spec):
    rotations = Rotations.parse(spec)
    turned = rotations.offset(Rotations.random(1, seed).matrices[0])
    assert (turned.degree, turned.name) == (rotations.degree, f"{spec}@offset")
    torch.testing.assert_close(turned.residuals(6), rotations.residuals(6), atol=1e-12, rtol=1e-9)


def test_an_offset_multiplies_from_the_right():
    rotations = Rotations.parse("Oh")
    assert torch.equal(rotations.offset(GENERIC).matrices, rotations.matrices @ GENERIC)


def test_the_generic_frame_is_turned_on_both_sides_and_has_a_name_that_parses():
    rotations = Rotations.parse("Oh")
    turned = rotations.generic()
    assert (turned.name, turned.degree) == ("Oh@generic", 3)
    assert turned.is_group
    torch.testing.assert_close(turned.matrices, GENERIC.T @ rotations.matrices @ GENERIC)
    # Only 1 and -1 are common to both frames.
    assert int((find(turned.matrices, rotations.matrices, 1e-2) >= 0).sum()) == 2
    assert torch.equal(Rotations.parse(turned.name).matrices, turned.matrices)
    torch.testing.assert_close(GENERIC @ GENERIC.T, torch.eye(3, dtype=torch.float64))
    assert torch.linalg.det(GENERIC) > 0


def test_a_rule_in_random_frames_is_turned_from_the_right_copy_by_copy():
    rule, turns = Rotations.parse("Th"), Rotations.random(3, seed=5).matrices
    copies = Rotations.parse("Th@random:3:5")
    assert (copies.replicas, copies.degree, copies.name) == (3, 2, "Th@random:3:5")
    assert torch.equal(copies.matrices, torch.cat([rule.matrices @ turn for turn in turns]))
    assert torch.equal(copies.weights, torch.full((72,), 1 / 72, dtype=torch.float64))
    assert torch.equal(Rotations.parse("Th@random:3").matrices, rule.randomized(3, seed=0).matrices)
    assert copies.offset(GENERIC).replicas == 3


def test_n_randomly_turned_copies_leave_the_nth_part_of_what_one_leaves():
    n = 20
    left = [n * float(Rotations.parse(f"O@random:{n}:{seed}").residuals(4)[0, 4]) for seed in range(20)]
    # One leaves 1. The sum of n random vectors of 9 components scatters by sqrt(2/9), the mean of 20 such by a tenth.
    assert np.mean(left) == pytest.approx(1, abs=0.3)


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(
        st.sampled_from(["none", "i", "T", "O", "I", "Th", "Oh", "Ih"]),
        st.builds("{}:{}".format, st.sampled_from(["so3", "o3"]), st.integers(1, 9)),
        st.builds("euler:{}{}".format, st.integers(1, 4), st.sampled_from(["", "i"])),
        st.builds("random:{}{}".format, st.integers(1, 9), st.sampled_from(["", ":0", ":3", ":12345"])),
    ),
    st.sampled_from(["", "@lab", "@generic", "@random:1", "@random:2", "@random:3:0", "@random:2:77"]),
)
def test_the_name_of_every_rule_gives_the_same_rule_again(rule, frame):
    once = Rotations.parse(rule + frame)
    again = Rotations.parse(once.name)
    assert torch.equal(again.matrices, once.matrices)
    assert torch.equal(again.weights, once.weights)
    assert (again.name, again.degree, again.replicas) == (once.name, once.degree, once.replicas)


def test_the_lab_frame_is_the_usual_one_and_has_the_usual_name():
    assert Rotations.parse("Oh@lab").name == "Oh"
    assert torch.equal(Rotations.parse("o3:7@lab").matrices, Rotations.parse("o3:7").matrices)


def test_a_rule_says_what_it_is():
    assert repr(Rotations.parse("Oh")) == "Rotations(Oh: 48 nodes, exact to degree 3, no parity-odd)"
    assert repr(Rotations.parse("T")) == "Rotations(T: 12 nodes, exact to degree 2)"
    assert repr(Rotations.parse("Th@random:4")) == (
        "Rotations(Th@random:4: 96 nodes in 4 replicas, exact to degree 2, no parity-odd)"
    )
    assert repr(Rotations.parse("random:7:1")) == "Rotations(random:7:1: 7 nodes in 7 replicas, exact to degree 0)"


@pytest.mark.parametrize(
    ("spec", "nearest"),
    [
        ("Ihh", "Ih"),
        ("IH", "Ih"),
        ("so4:7", "so3:7"),
        ("O3:9", "o3:9"),
        ("o3", "o3:7"),
        ("so3:", "so3:7"),
        ("so3:-5", "so3:5"),
        ("so3:7i", "so3:7"),
        ("euler:x", "euler:3"),
        ("euler", "euler:3"),
        ("eular:2i", "euler:2"),
        ("random", "random:10"),
        ("random:8:1:1", "random:8"),
        ("nothing", "none"),
        ("crystl", "crystal"),
    ],
)
def test_an_unknown_rule_is_refused_with_the_grammar_and_the_nearest_one(spec, nearest):
    with pytest.raises(
        ValueError, match=r'the rule ".*" is not in the grammar: RULE or RULE@FRAME; RULE none, '
    ) as caught:
        Rotations.parse(spec)
    assert f'Did you mean "{nearest}"?' in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "nearest"),
    [
        ("Oh@genric", "Oh@generic"),
        ("Oh@Lab", "Oh@lab"),
        ("Oh@random", "Oh@random:10"),
        ("Oh@random:3:", "Oh@random:3"),
        ("so3:7@random:-2", "so3:7@random:2"),
        ("Oh@crystals", "Oh@crystal"),
    ],
)
def test_an_unknown_frame_is_refused_with_the_grammar_and_the_nearest_one(spec, nearest):
    with pytest.raises(ValueError, match=r'the frame ".*" is not in the grammar: .*FRAME lab, generic, ran') as caught:
        Rotations.parse(spec)
    assert f'Did you mean "{nearest}"?' in str(caught.value)


def test_where_rule_and_frame_are_unknown_both_are_corrected():
    with pytest.raises(ValueError, match=r'the rule "OH" is not .*Did you mean "Oh@generic"\?'):
        Rotations.parse("OH@generic")
    with pytest.raises(ValueError, match=r'the rule "OH" is not .*Did you mean "Oh@generic"\?'):
        Rotations.parse("OH@genric")


@pytest.mark.parametrize("spec", ["crystal", "I@crystal", "crystal@generic"])
def test_a_rule_that_needs_a_structure_is_refused_with_the_function_that_takes_one(spec):
    with pytest.raises(ValueError, match=rf'made for one structure.*Use tumble\.crystal\.parse_rule\("{spec}"\)'):
        Rotations.parse(spec)


def test_more_than_one_frame_is_refused():
    with pytest.raises(ValueError, match=r"name 2 frames; one at most was .* Leave out all but one of @random:3, @gen"):
        Rotations.parse("T@random:3@generic")
    with pytest.raises(
        ValueError, match=r"rule T@random:3 cannot be put into the frame generic: it is in the frame ran"
    ):
        Rotations.parse("T@random:3").generic()
    with pytest.raises(ValueError, match=r"into the frame random:2: it is in the frame generic already\. Start from T"):
        Rotations.parse("T@generic").randomized(2)


def test_white_space_around_a_spec_is_ignored():
    assert Rotations.parse(" Oh ").name == "Oh"


def test_impossible_numbers_are_refused():
    with pytest.raises(ValueError, match="degree 0 were asked for; 1 to 131 can be made"):
        Rotations.parse("so3:0")
    with pytest.raises(ValueError, match="degree 132 were asked for"):
        Rotations.parse("o3:132")
    with pytest.raises(ValueError, match="order 0 has no nodes"):
        Rotations.parse("euler:0")
    with pytest.raises(ValueError, match="0 random rotations were asked for"):
        Rotations.parse("random:0")
    with pytest.raises(ValueError, match=r"0 randomly turned copies of Oh were .*at least 1 .* Use Oh@random:10, say"):
        Rotations.parse("Oh@random:0")
    with pytest.raises(ValueError, match='"D2" is not a polyhedral group; T, O, I'):
        Rotations.group("D2")


def test_matrices_that_are_not_orthogonal_are_refused_with_the_worst():
    matrices = Rotations.parse("T").matrices.clone()
    matrices[7, 0, 0] += 3e-4
    with pytest.raises(ValueError, match=r"not orthogonal: worst .* is 3e-04 at index 7, allowed 1e-10"):
        Rotations(matrices, torch.full((12,), 1 / 12, dtype=torch.float64), 2, "bent")
    matrices[7] = torch.nan
    with pytest.raises(ValueError, match="at index 7"):
        Rotations(matrices, torch.full((12,), 1 / 12, dtype=torch.float64), 2, "bent")


def test_weights_must_be_positive_and_sum_to_one():
    two = Rotations.parse("i").matrices
    with pytest.raises(ValueError, match=r"sum to 0\.9 and the smallest is 0\.4"):
        Rotations(two, torch.tensor([0.5, 0.4], dtype=torch.float64), 0, "light")
    with pytest.raises(ValueError, match=r"sum to 1 and the smallest is -0\.5"):
        Rotations(two, torch.tensor([1.5, -0.5], dtype=torch.float64), 0, "negative")


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"matrices of shape \(2, 3, 3\) and weights of shape \(3,\)"):
        Rotations(Rotations.parse("i").matrices, torch.full((3,), 1 / 3), 0, "short")
    with pytest.raises(ValueError, match=r"R >= 1, were expected"):
        Rotations(torch.zeros(0, 3, 3), torch.zeros(0), 0, "empty")


def test_replicas_must_be_blocks_of_one_length_and_one_weight():
    matrices = Rotations.parse("random:4").matrices
    weights = torch.tensor([0.1, 0.4, 0.2, 0.3], dtype=torch.float64)
    assert Rotations(matrices, weights, 0, "weighted", 2).replicas == 2
    for replicas in (0, 3):
        with pytest.raises(ValueError, match=rf"4 rotations cannot be {replicas} replicas of one rule; at least 1"):
            Rotations(matrices, weights, 0, "uneven", replicas)
    with pytest.raises(ValueError, match=r"replicas have weights from 0\.4 to 0\.6; each of 2 .* to have 0\.5"):
        Rotations(matrices, torch.tensor([0.1, 0.3, 0.2, 0.4], dtype=torch.float64), 0, "heavy", 2)
