"""What do models learn from images that come after their training?"""

import sys

from product.update import main

if __name__ == "__main__":
    sys.exit(main())
