"""`python -m maml_core`."""

import gc
import sys

gc.disable()  # or what the imports leave, which is there to stay, is looked through again and again: 0.3 s

from maml_core.cli import main  # noqa: E402

if __name__ == "__main__":
    gc.freeze()
    gc.enable()
    sys.exit(main())
