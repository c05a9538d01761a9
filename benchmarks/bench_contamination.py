"""Are defects among the good images found, and what does leaving them out bring back?"""

import sys

from product.contamination import main

if __name__ == "__main__":
    sys.exit(main())
