"""Do models bear turned parts and other light, and what do augmentations do for that?"""

import sys

from product.pose import main

if __name__ == "__main__":
    sys.exit(main())
