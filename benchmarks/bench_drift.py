"""Is drift said where the light changes half-way, and only there?"""

import sys

from product.drift import main

if __name__ == "__main__":
    sys.exit(main())
