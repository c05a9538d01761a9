"""Training taken apart: where a step's time goes, and an epoch with and without the cache."""

import sys

from product.training import main

if __name__ == "__main__":
    sys.exit(main())
