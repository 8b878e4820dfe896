"""A wheel works the same from another folder: plugins and scenarios inside, nothing but `harness` at the top."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from places import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Build from the files that git would ship, without touching the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_installs_no_top_level_package_but_harness(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"harness"}
    assert "harness/_bundled/plugins/async_ps.py" in names
    assert "harness/_bundled/scenarios/lenet.toml" in names
    assert "harness/report/report.html.j2" in names
    assert "harness/py.typed" in names
    assert {"harness/workloads/data_files/digits.csv.gz", "harness/workloads/data_files/digits.LICENSE"} <= {*names}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_source_archive_holds_what_checks_tests_and_documents_it(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    (built,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(built) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = ("LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "constraints.txt", "mkdocs.yml")
    wanted += ("docs/hooks.py", "docs/index.md", "docs/images/report.png", "tests/conftest.py", "scenarios/lenet.toml")
    assert [name for name in wanted if name not in names] == []


def test_wheel_runs_from_another_folder(wheel, tmp_path):
    site, cwd = tmp_path / "site", tmp_path / "elsewhere"
    cwd.mkdir()
    zipfile.ZipFile(wheel).extractall(site)
    environment = os.environ | {"PYTHONPATH": str(site)}

    def harness(*arguments: str) -> str:
        command = [sys.executable, "-m", "harness", *arguments]
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "from: " + str(site) in harness("plugins", "async-ps")
    assert "lenet" in harness("run")
    answer = harness("run", "lenet", "--only", "strategy=single", "--set", "seeds=1", "--set", "engine=virtual")
    assert "2 cells run now, 0 kept from earlier runs" in answer
    assert (cwd / "results" / "lenet" / "report.html").is_file()
