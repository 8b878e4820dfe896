from __future__ import annotations

import re

import pytest
from lazy import lazy
from recorded import NASTY

matplotlib_lines = lazy("matplotlib.lines")
marks = lazy("harness.report.marks")
pd = lazy("pandas")


def body(*artists: object) -> str:
    return "".join(f'<g id="{artist.get_gid()}"><path/></g>' for artist in artists)  # type: ignore[attr-defined]


def line() -> matplotlib_lines.Line2D:
    return matplotlib_lines.Line2D([], [])


def test_a_mark_carries_its_series_its_name_and_its_stop() -> None:
    first, second, key, other = line(), line(), line(), line()
    marks.mark(first, "one", "one, seed 0")
    marks.mark(second, "two", stop=3)
    marks.mark_key(key, "two")
    marks.mark_key(other, "drawn nowhere")
    assert marks.with_marks(body(first, second, key, other), stop=1) == (
        '<g class="m" data-s="0"><title>one, seed 0</title><path/></g>'
        '<g class="m" data-s="1" data-f="3" display="none"><path/></g>'
        '<g data-k="1"><path/></g><g><path/></g>'
    )


def test_names_are_text_whatever_is_in_them() -> None:
    nasty = line()
    marks.mark(nasty, NASTY, NASTY + "|\n'\"")
    text = marks.with_marks(body(nasty), stop=0)
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert len(re.findall("<g ", text)) == 1


def test_a_file_keeps_nothing_that_only_a_page_uses() -> None:
    named = line()
    marks.mark(named, "one", "one, seed 0")
    assert marks.without_marks(body(named)) == "<g><path/></g>"


@pytest.mark.parametrize(
    ("seeds", "rates", "named"),
    [
        ([0], [0.1], "single, global batch 32, learning rate 0.1, seed 0"),
        ([0, 1, 2], [0.1, 0.3, 0.1], "single, global batch 32, learning rates 0.1 to 0.3, seeds 0 to 2"),
    ],
)
def test_cells_are_named_by_what_tells_them_apart(seeds: list[int], rates: list[float], named: str) -> None:
    frame = pd.DataFrame({"seed": seeds, "learning_rate": rates, "global_batch_size": 32})
    assert marks.name_cells("single", frame) == named
    assert marks.name_cells("single, global batch 32", frame[["global_batch_size"]]) == "single, global batch 32"
