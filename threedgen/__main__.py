"""`python -m threedgen`, the same as the command `threedgen`."""

import sys

from threedgen.cli import main

if __name__ == "__main__":
    sys.exit(main())
