"""A disk without room."""

from contextlib import contextmanager
from pathlib import Path

import pytest

from grad.system.files import replacing

needs_dev_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


@contextmanager
def replacing_on_a_full_disk(path):
    """As ``replacing``, but what is written goes to /dev/full."""
    with replacing(path) as temporary:
        temporary.unlink()
        temporary.symlink_to("/dev/full")
        yield temporary
