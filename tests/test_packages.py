"""A scaffolded package is installed beside the wheel, in an environment with neither: it is listed, checked and run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from places import ROOT

from harness.commands.cli import main


def build(source: Path, into: Path) -> Path:
    """Build a wheel without touching the tree."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(into)]
    before = set(into.glob("*.whl"))
    subprocess.run(command, cwd=source, check=True, capture_output=True, text=True)
    (built,) = set(into.glob("*.whl")) - before
    return built


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> Path:
    """Return a folder with three packages as they are written."""
    folder = tmp_path_factory.mktemp("packages")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for kind, name in (("strategy", "pass-around"), ("workload", "ten-pictures"), ("probe", "crowd")):
            done = CliRunner().invoke(main, ["new", kind, name, "--package"])
            assert done.exit_code == 0, done.output
    return folder


@pytest.fixture(scope="module")
def site(packages, tmp_path_factory) -> Path:
    """Install the harness and the packages, and one that must be refused, from wheels into a folder of their own."""
    folder, wheels = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("wheels")
    threads = packages / "harness-threads"
    shutil.copytree(packages / "harness-pass-around", threads)
    for path in [path for path in threads.rglob("*") if path.is_file()]:
        text = path.read_text(encoding="utf-8").replace("pass-around", "threads").replace("pass_around", "threads")
        path.write_text(text, encoding="utf-8")
    source = threads / "src" / "harness_threads"
    (threads / "src" / "harness_pass_around").rename(source)
    plugin = source / "__init__.py"
    plugin.write_text(plugin.read_text(encoding="utf-8").replace("from harness", "import threading\nfrom harness", 1))
    built = [build(each, wheels) for each in (ROOT, *sorted(packages.iterdir()))]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(folder)]
    subprocess.run([*pip, *map(str, built)], check=True, capture_output=True, text=True)
    return folder


def ran(site: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )


def harness(site: Path, folder: Path, *words: str) -> str:
    done = ran(site, folder, "harness", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_installed_packages_are_listed_with_where_they_are_from(site, tmp_path):
    assert f"from: {site}" in harness(site, tmp_path, "plugins", "pass-around")
    listed = harness(site, tmp_path, "plugins")
    assert "ten-pictures" in listed
    assert "crowd" in listed


def test_an_installed_plugin_that_is_refused_is_listed_with_the_line_and_what_to_use_instead(site, tmp_path):
    _, _, broken = harness(site, tmp_path, "plugins").partition("broken:\n")
    assert "threads" in broken
    assert "a strategy must not import threading; instead: call a method of Worker without await" in broken
    done = ran(site, tmp_path, "harness", "check", "threads")
    assert done.returncode == 1
    assert "must not import threading" in done.stdout


@pytest.mark.dist
def test_a_strategy_of_an_installed_package_passes_its_own_test_and_is_run(site, packages, tmp_path):
    done = ran(site, packages / "harness-pass-around", "pytest", "-q", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    one = ("--set", "gpus=2", "--set", "seeds=1", "--set", "goal.max_steps=5", "--set", "target_accuracy=none")
    told = harness(site, tmp_path, "run", "lenet", "--set", "strategy=pass-around", *one)
    assert "2 ok" in told  # at two learning rates


@pytest.mark.dist
@pytest.mark.parametrize("package", ["harness-ten-pictures", "harness-crowd"])
def test_packages_with_workloads_and_probes_pass_their_own_tests(site, packages, package):
    done = ran(site, packages / package, "pytest", "-q", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["Mine", "my_strategy", "-x", "9lives"])
def test_names_that_no_package_can_have_are_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["new", "probe", "--package", "--", name])
    assert done.exit_code == 2
    assert "small letters and digits" in done.output
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_not_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "harness-mine").mkdir()
    done = CliRunner().invoke(main, ["new", "strategy", "mine", "--package"])
    assert done.exit_code == 2
    assert "already exists and was not changed" in done.output
