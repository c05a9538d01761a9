"""Registers, spills, shared memory and occupancy of every CUDA kernel, as the compiler says."""

import sys

from operators.ptxas import main

if __name__ == "__main__":
    sys.exit(main())
