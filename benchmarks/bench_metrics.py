"""Time and memory of the metrics."""

import sys

from product.metrics import main

if __name__ == "__main__":
    sys.exit(main())
