"""``python -m grad COMMAND``: the console command where no script is installed."""

from __future__ import annotations

import sys

from grad.cli import main

sys.exit(main())
