"""The server under load: many requests from many clients, broken files among them."""

import sys

from product.serve import main

if __name__ == "__main__":
    sys.exit(main())
