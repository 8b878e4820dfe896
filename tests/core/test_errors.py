"""Names that are refused: the one that was meant stands first, and of many only the nearest few are listed."""

from harness.core.errors import FEW_NAMES, MOST_NAMES, one_of, unknown


def test_few_names_are_listed_in_full_after_the_one_that_was_meant():
    assert one_of("fp31", ["fp64", "fp32"]) == "did you mean fp32? Write one of fp64, fp32"
    assert one_of("x", ["fp64", "fp32"]) == "one of fp64, fp32"


def test_of_many_names_the_nearest_few_are_listed_with_the_command_that_lists_all():
    names = [f"Model-{number}" for number in range(MOST_NAMES + 1)]
    said = one_of("model-3", names, "harness plugins")
    assert said.partition("Nearest: ")[2].count("Model-") == FEW_NAMES
    assert "Nearest: Model-3, " in said
    assert said.endswith(f"(`harness plugins` lists all {len(names)})")


def test_an_unknown_name_is_a_whole_sentence_with_and_without_a_suggestion():
    assert (
        unknown("no such key", "gpu", ["gpus"], "Keys here: gpus") == "no such key; did you mean gpus? Keys here: gpus"
    )
    assert unknown("no such key", "x", ["gpus"], "Keys here: gpus") == "no such key. Keys here: gpus"
