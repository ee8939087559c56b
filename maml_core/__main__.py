"""`python -m maml_core`."""

import sys

from maml_core.cli import main

if __name__ == "__main__":
    sys.exit(main())
