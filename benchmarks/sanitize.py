"""Every operator, forward and backward, at small odd sizes: to run under a memory checker."""

import sys

from operators.sanitize import main

if __name__ == "__main__":
    sys.exit(main())
