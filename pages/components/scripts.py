"""JavaScript in two files as the one module that Streamlit takes: what is decided, and the elements and listeners."""

import re
from pathlib import Path


def script(main: str, pure: str) -> str:
    """Both files of this folder as one module: none can be imported from it."""
    folder = Path(__file__).parent
    decided, rest = ((folder / name).read_text(encoding="utf-8") for name in (pure, main))
    decided = re.sub(r"^export (function|const)", r"\1", decided, flags=re.MULTILINE)
    return decided + re.sub(rf'^import .* from "./{re.escape(pure)}";$', "", rest, flags=re.MULTILINE)
