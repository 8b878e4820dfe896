"""What is kept on disk between runs."""

from __future__ import annotations

import json

import pytest

from harness.core import cache

KEY = {"model": "mlp", "sizes": (1, 2), "nested": {"a": None}}


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_was_saved_is_loaded_by_an_equal_key_only():
    assert cache.load("shape", KEY) is None
    assert cache.save("shape", KEY, {"x": [1, 2.5, "z"]})
    assert cache.load("shape", {**KEY, "sizes": [1, 2]}) == {"x": [1, 2.5, "z"]}
    assert cache.load("shape", {**KEY, "sizes": [2, 1]}) is None
    assert cache.load("profile", KEY) is None
    cache.save("shape", KEY, {"x": 2})
    assert cache.load("shape", KEY) == {"x": 2}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"content": 5}', '{"key": 1, "content": {}}', "\xff"])
def test_a_broken_file_counts_as_absent_and_is_replaced(own_folder, text):
    cache.save("shape", KEY, {"x": 1})
    (file,) = own_folder.rglob("*.json")
    file.write_text(text, encoding="latin-1")
    assert cache.load("shape", KEY) is None
    assert cache.save("shape", KEY, {"x": 3})
    assert cache.load("shape", KEY) == {"x": 3}


def test_another_key_behind_the_same_name_counts_as_absent(own_folder):
    cache.save("shape", KEY, {"x": 1})
    (file,) = own_folder.rglob("*.json")
    entry = json.loads(file.read_text())
    file.write_text(json.dumps({**entry, "key": {"model": "another"}}))
    assert cache.load("shape", KEY) is None


def test_a_folder_that_cannot_be_written_costs_no_result(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "file"))
    assert not cache.save("shape", KEY, {"x": 1})
    assert cache.load("shape", KEY) is None


def test_nothing_is_left_beside_the_entries(own_folder):
    for number in range(3):
        cache.save("shape", {"n": number}, {})
    assert len(list(own_folder.rglob("*"))) == 4


def test_folder_follows_the_environment(tmp_path, monkeypatch):
    assert cache.folder() == tmp_path / "cache"
    monkeypatch.delenv("HARNESS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "harness"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.folder() == tmp_path / "home" / ".cache" / "harness"
