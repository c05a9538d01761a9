"""A run that is killed at any moment is resumed to the same files; ``kills.py`` tries more."""

import os
import subprocess
import sys
from pathlib import Path

from helpers import kills


def test_killed_runs_end_with_the_same_files(tmp_path):
    """In a process of its own, as its children are forks, which threads of other tests disturb."""
    root = Path(__file__).resolve().parents[2]
    paths = os.pathsep.join(map(str, (root, root / "tests")))
    done = subprocess.run(
        [sys.executable, kills.__file__, "--kills", "6", "--folder", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 kills, 0 with other files" in done.stdout
