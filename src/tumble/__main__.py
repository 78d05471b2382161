"""`python -m tumble` is `tumble`."""

import sys

from tumble.cli import main

if __name__ == "__main__":
    sys.exit(main())
