from __future__ import annotations

from itertools import pairwise

import pytest
from lazy import lazy

lettering = lazy("harness.report.lettering")
shades = lazy("harness.report.shades")
end_labels = lazy("harness.report.end_labels")

LONG = 'fsdp, global batch 256, cluster.inter_node "nvlink3", precision "bf16", 16 simulated H100 GPUs: 12,345'


@pytest.mark.parametrize("text", [LONG, "x" * 150, "two-words and-hyphens " * 6, "short", ""])
@pytest.mark.parametrize("room", [120.0, 300.0])
def test_a_name_is_broken_into_lines_and_not_cut(text: str, room: float) -> None:
    lines = lettering.wrapped(text, room=room).split("\n")
    assert all(lettering.text_width(line, 9) <= room for line in lines)
    if len(lines) < lettering.MOST_NAME_LINES:
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_of_a_name_without_end_the_middle_is_left_out() -> None:
    lines = lettering.wrapped("begin " + "word " * 10_000 + "end").split("\n")
    assert len(lines) <= lettering.MOST_NAME_LINES
    assert lines[0].startswith("begin")
    assert lines[-1].endswith("end")


def test_more_devices_are_darker_and_a_count_keeps_its_shade() -> None:
    palette = shades.Palette({"async-ps": "#de8f05", "single": "#0173b2"}, {"async-ps": [16, 4, 8, 4], "single": [1]})
    found = [palette.shade("async-ps", gpus) for gpus in (4, 8, 16)]
    light = [sum(int(colour[i : i + 2], 16) for i in (1, 3, 5)) for colour in found]
    assert light[0] - light[1] > 60 < light[1] - light[2]
    assert found[1] == palette["async-ps"]
    assert palette.shade("single", 1) == palette["single"]
    assert palette.shade("async-ps", 5) == palette["async-ps"]  # of no count of the page


@pytest.mark.parametrize(
    "heights", [[0.5, 0.5, 0.5], [0.0, 0.01, 0.9], [0.98, 0.99, 1.0], [0.1, 0.12, 0.14, 0.3], [0.5] * 9, []]
)
def test_numbers_at_ends_do_not_touch_and_stay_in_order_inside(heights: list[float]) -> None:
    gap = 0.1
    found = end_labels.pushed_apart(heights, gap)
    assert len(found) == len(heights)
    assert all(later - earlier > gap - 1e-9 for earlier, later in pairwise(found))
    assert all(-1e-9 <= height <= 1 + 1e-9 for height in found)


def test_what_does_not_touch_is_not_moved() -> None:
    assert end_labels.pushed_apart([0.1, 0.5, 0.9], 0.1) == pytest.approx([0.1, 0.5, 0.9])
