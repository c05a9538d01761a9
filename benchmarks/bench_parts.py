"""What does each part of a model with statistics add to Gaussians of the features alone?"""

import sys

from product.parts import main

if __name__ == "__main__":
    sys.exit(main())
