"""Do thresholds keep the false-alarm rate asked for? Good test images of finished runs tell."""

import sys

from product.thresholds import main

if __name__ == "__main__":
    sys.exit(main())
