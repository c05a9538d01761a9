"""Damaged files of each kind are right or one sentence; ``damage.py`` tries more."""

import os
import subprocess
import sys
from pathlib import Path

from helpers import damage


def test_damaged_files_are_right_or_one_sentence():
    """In a process of its own, as its children are forks, which threads of other tests disturb."""
    root = Path(__file__).resolve().parents[2]
    paths = os.pathsep.join(map(str, (root, root / "tests")))
    done = subprocess.run(
        [sys.executable, damage.__file__, "--files", "6"],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" 0 wrong") == done.stdout.count("6 files") >= 18
