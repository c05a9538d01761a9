"""Predicted times of the CUDA kernels, from what the emulator counts and the compiler reports."""

import sys

from operators.emulated import main

if __name__ == "__main__":
    sys.exit(main())
