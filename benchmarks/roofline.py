"""A roofline on paper: what limits each kernel on a GPU, from its bytes and its arithmetic."""

import sys

from operators.roofline import main

if __name__ == "__main__":
    sys.exit(main())
