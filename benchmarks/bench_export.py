"""Exported files beside the detector on this CPU: images a second from decoded images."""

import sys

from product.export import main

if __name__ == "__main__":
    sys.exit(main())
