"""`python -m pgjax` is the command `pgjax`."""

import sys

from pgjax.cli import main

if __name__ == "__main__":
    sys.exit(main())
