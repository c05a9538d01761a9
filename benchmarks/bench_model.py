"""What a prediction costs: its parts, the ways to run it, and `grad predict` from files."""

import sys

from product.model import main

if __name__ == "__main__":
    sys.exit(main())
