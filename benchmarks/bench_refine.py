"""Refinement, its loss and score: our kernel against eager and compiled PyTorch."""

import sys

from operators.refine import main

if __name__ == "__main__":
    sys.exit(main())
