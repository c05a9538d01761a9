"""How the cost of training grows: with the images, with their size, with the grids."""

import sys

from product.scaling import main

if __name__ == "__main__":
    sys.exit(main())
