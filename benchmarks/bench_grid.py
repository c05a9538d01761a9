"""Lookups and projection: our kernels against eager and compiled PyTorch."""

import sys

from operators.grid import main

if __name__ == "__main__":
    sys.exit(main())
