"""Ours and other people's methods on the same images, with the same metrics, side by side."""

import sys

from others.command import main

if __name__ == "__main__":
    sys.exit(main())
