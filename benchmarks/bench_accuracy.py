"""The paper's tables, on any data: ours and its rivals, mean and standard deviation over seeds."""

import sys

from accuracy.command import main

if __name__ == "__main__":
    sys.exit(main())
