"""Slices of series as devices and archives really deliver them, after public reports on converters to NIfTI."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import pytest

from pacsifier_ops.deid.slices import Frame, Slices, is_localizer, judge

AXIAL, CORONAL, SAGITTAL = (1.0, 0, 0, 0, 1, 0), (1.0, 0, 0, 0, 0, -1), (0.0, 1, 0, 0, 0, -1)


def stack(
    places: Sequence[float], orientation: tuple[float, ...] = AXIAL, apart: str = "", shear: float = 0
) -> list[Frame]:
    return [Frame((-100.0, -100 + shear * z, z), orientation, apart) for z in places]


def told(found: Slices) -> tuple[object, ...]:
    return found.slices, found.spacing, found.missing, found.uneven


def test_a_plain_stack_in_any_order() -> None:
    places = [2.5 * n for n in range(20)]
    found = judge(stack([*places[::2], *reversed(places[1::2])]))
    assert told(found) == (20, 2.5, 0, False)
    assert (found.volumes, found.duplicates, found.incomplete, found.orientations, found.tilt) == (1, 0, False, 1, 0.0)
    assert sorted(found.positions) == places  # type: ignore[type-var]


@pytest.mark.parametrize("spacing", [0.05, 0.3, 0.625, 1.25, 5.0])
@pytest.mark.parametrize("gone", [{4}, {4, 9}, {4, 5, 6}, {1, 12}])
def test_missing_slices_are_counted(spacing: float, gone: set[int]) -> None:
    found = judge(stack([spacing * n for n in range(20) if n not in gone]))
    assert told(found) == (20 - len(gone), spacing, len(gone), False)


def test_a_hundred_slices_of_the_middle_are_missing() -> None:
    # dcm2niix 248: 37 of 151 slices came.
    places = [1.6 * n for n in range(151) if n <= 18 or n >= 132]
    assert told(judge(stack([round(z, 3) for z in places]))) == (38, 1.6, 113, False)


@pytest.mark.parametrize(
    "places",
    [
        [0.3 * n for n in range(40)],  # ITK 1607: binary fractions
        [round(0.9 * n, 6) for n in range(40)],  # dcm2niix 216
        [round(0.625 * n, 1) for n in range(40)],  # devices that write one digit
        [1.6 * n + (0.001 if n % 2 else 0) for n in range(40)],  # dicom2nifti 36
        [2.4 * n + 0.0001 * (-1) ** n for n in range(40)],
    ],
)
def test_roundings_are_no_uneven_spacing(places: list[float]) -> None:
    found = judge(stack(places))
    assert (found.slices, found.missing, found.uneven) == (40, 0, False)


def test_a_head_with_two_increments_lacks_no_slice() -> None:
    # dcm2niix 22, dicom2nifti 58: 2.5 mm at the base of the skull, 7.5 mm above.
    places = [2.5 * n for n in range(32)] + [77.75 + 7.5 * n for n in range(12)]
    assert told(judge(stack(places))) == (44, 2.5, 0, True)
    exact = [2.5 * n for n in range(32)] + [77.5 + 7.5 * n for n in range(1, 12)]
    assert told(judge(stack(exact))) == (43, 2.5, 0, True)


def test_no_two_distances_are_alike() -> None:
    assert told(judge(stack([1.3**n for n in range(10)]))) == (10, pytest.approx(0.8568, abs=1e-3), None, True)


def test_a_slice_that_is_there_twice_is_a_duplicate_and_not_a_volume() -> None:
    # dcm2niix 539: the first slice is there twice.
    frames = [*stack([1.2 * n for n in range(20)]), *stack([0.0])]
    found = judge(frames, [*range(1, 21), 21])
    assert (found.slices, found.volumes, found.duplicates, found.copies) == (20, 1, 1, frozenset({20}))
    assert told(found)[1:] == (1.2, 0, False)


def test_a_series_that_was_sent_twice_is_duplicates_by_its_numbers() -> None:
    frames = stack([3.0 * n for n in range(10)]) * 2
    assert judge(frames, [*range(1, 11)] * 2).duplicates == 10
    found = judge(frames, range(1, 21))  # other numbers: two volumes that nothing tells apart any more
    assert (found.duplicates, found.volumes, found.incomplete) == (0, 2, False)


def test_slices_that_differ_are_no_duplicates() -> None:
    # dcm2niix 168: equal times and numbers, and other positions.
    found = judge(stack([3.0 * n for n in range(46)]), [1] * 46)
    assert (found.duplicates, found.slices) == (0, 46)


@pytest.mark.parametrize("times", [2, 5, 30])
def test_time_points_are_volumes_and_no_missing_slices(times: int) -> None:
    frames = [frame for time in range(times) for frame in stack([4.0 * n for n in range(24)], apart=f"{time}")]
    found = judge(frames, range(len(frames)))
    assert told(found) == (24, 4.0, 0, False)
    assert (found.volumes, found.incomplete, found.duplicates) == (times, False, 0)


def test_a_scan_that_was_stopped_has_an_incomplete_volume() -> None:
    # dcm2niix 357 and 379: the last volume lacks slices.
    frames = [frame for time in range(5) for frame in stack([4.0 * n for n in range(24)], apart=f"{time}")][:-10]
    found = judge(frames, range(len(frames)))
    assert (found.volumes, found.incomplete, found.duplicates, found.missing) == (5, True, 0, 0)


def test_two_acquisitions_that_overlap_are_no_duplicates() -> None:
    frames = [*stack([float(n) for n in range(20)], apart="1"), *stack([float(n) for n in range(15, 40)], apart="2")]
    found = judge(frames, range(45))
    assert (found.slices, found.volumes, found.incomplete, found.duplicates) == (40, 2, True, 0)


def test_a_tilted_gantry_changes_no_spacing() -> None:
    tilted = (1.0, 0, 0, 0, math.cos(math.radians(15)), -math.sin(math.radians(15)))
    found = judge([Frame((0.0, 0, 5.0 * n), tilted, "") for n in range(20)])
    assert told(found) == (20, pytest.approx(5 * math.cos(math.radians(15)), abs=1e-3), 0, False)
    assert found.tilt == pytest.approx(15, abs=0.01)
    lacking = judge([Frame((0.0, 0, 5.0 * n), tilted, "") for n in range(20) if n != 7])
    assert (lacking.missing, lacking.uneven) == (1, False)


@pytest.mark.parametrize("orientation", [CORONAL, SAGITTAL, (0.8, 0.6, 0, 0, 0, -1)])
def test_oblique_stacks_are_measured_along_their_normal(orientation: tuple[float, ...]) -> None:
    a, b, c, d, e, f = orientation
    normal = (b * f - c * e, c * d - a * f, a * e - b * d)
    frames = [Frame(tuple(3.0 * n * axis for axis in normal), orientation, "") for n in range(12)]
    found = judge(frames)
    assert told(found) == (12, 3.0, 0, False) and found.tilt == pytest.approx(0, abs=0.01)


def test_three_planes_are_not_judged() -> None:
    # dcm2niix 140: a localizer.
    frames = [frame for plane in (AXIAL, CORONAL, SAGITTAL) for frame in stack([0, 10, 40], plane)]
    found = judge(frames)
    assert found.orientations == 3 and told(found) == (None, None, None, None)


def test_a_scout_among_slices_leaves_the_stack_judged() -> None:
    found = judge([*stack([2.0 * n for n in range(30)]), Frame((0.0, 0, 0), SAGITTAL, "")])
    assert told(found) == (30, 2.0, 0, False) and found.orientations == 2 and found.positions[-1] is None


def test_directions_with_roundings_are_one() -> None:
    # slightly other cosines from slice to slice
    frames = [Frame((0.0, 0, 2.0 * n), (1.0, 1e-4 * (n % 3), 0, 0, 1, 0), "") for n in range(12)]
    assert judge(frames).orientations == 1 and judge(frames).slices == 12


def test_stacks_side_by_side_are_not_judged() -> None:
    left = [Frame((x, 0.0, 2.0 * n), AXIAL, "") for x in (-150.0, 20.0) for n in range(10)]
    assert told(judge(left)) == (None, None, None, None)


def test_slices_that_are_shifted_sideways_are_uneven() -> None:
    frames = [Frame((30.0 if n > 9 else 0.0, 0.0, 2.0 * n), AXIAL, "") for n in range(20)]
    assert judge(frames).uneven is True


@pytest.mark.parametrize("frames", [[], [Frame((0.0, 0, 0), (0.0,) * 6, ""), Frame((9.0, 0, 0), (0.0,) * 6, "")]])
def test_little_is_not_judged(frames: list[Frame]) -> None:
    assert told(judge(frames)) == (None, None, None, None)


def test_one_image_is_one_slice() -> None:
    found = judge(stack([7.0]))
    assert (found.slices, found.volumes, found.duplicates, found.missing, found.tilt) == (1, 1, 0, None, None)


def test_two_slices_have_a_spacing_and_no_more() -> None:
    assert told(judge(stack([0.0, 5.0]))) == (2, 5.0, None, None)


@pytest.mark.parametrize(
    ("image_type", "text", "is_one"),
    [
        ("ORIGINAL\\PRIMARY\\LOCALIZER", "", True),
        ("ORIGINAL\\PRIMARY\\AXIAL", "Scout", True),
        ("", "3 Plane Localizer", True),
        ("", "Topogram 0.6", True),
        ("", "survey_MST", True),
        ("ORIGINAL\\PRIMARY\\AXIAL", "Thorax 1.0", False),
        ("", "LOCAL SHIM", False),
    ],
)
def test_localizers(image_type: str, text: str, is_one: bool) -> None:
    assert is_localizer(image_type, [text, ""]) is is_one


@pytest.mark.parametrize(
    "frames",
    [
        [Frame((0.0, 0.0, 0.0), AXIAL, "")] * 20_000,  # a cine whose times were removed
        [
            Frame((0.0, 0.0, 0.0), (math.cos(n), math.sin(n), 0.0, -math.cos(n * n), math.sin(n * n), 0.0), "")
            for n in range(20_000)
        ],
    ],
    ids=["one place", "as many orientations"],
)
def test_a_huge_series_takes_no_time(frames: list[Frame]) -> None:
    begun = time.process_time()
    judge(frames, list(range(20_000)))
    assert time.process_time() - begun < 5


def test_orientations_are_parallel_also_where_they_are_rounded_to_either_side() -> None:
    each = [(1.0 + x, 0.0, 0.0, 0.0, 1.0 + y, 0.0) for x in (0.0, 0.0099, -0.0099) for y in (0.0, 0.0099, -0.0099)]
    assert judge([Frame((0.0, 0.0, float(n)), one, "") for n, one in enumerate(each)]).orientations == 1
