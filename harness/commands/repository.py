"""Which commit the user's code was at."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from harness.results.history import Commit

SET_BY_CI = ("GITHUB_SHA", "CI_COMMIT_SHA", "GIT_COMMIT")
"""Variables in which GitHub, GitLab and Jenkins name the commit of a job: for where the code lies without its git."""


def commit_of(folder: Path) -> Commit:
    """Return the commit of the repository that a folder lies in, else what the CI system says; empty for neither."""
    name = _git(folder, "rev-parse", "HEAD")
    if name:
        # Results lie in the repository more often than not: what git does not track makes no other code.
        return Commit(name, bool(_git(folder, "status", "--porcelain", "--untracked-files=no")))
    return Commit(next((os.environ[name] for name in SET_BY_CI if os.environ.get(name)), ""))


def _git(folder: Path, *arguments: str) -> str:
    """Return what git says; empty where it says nothing, is not there, or there is no repository."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
