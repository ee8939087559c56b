"""The server and browser of the browser tests, for faults that need them."""

from tests.browser.conftest import browser, new_tab

__all__ = ["browser", "new_tab"]
