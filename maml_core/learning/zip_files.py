"""A user's zip file, hostile until proven otherwise: of a size that ours could have, and its damages said."""

import io
import zipfile
from typing import IO

from maml_core.errors import ConfigError

_MOST_DIRECTORY = 16 * 2**20
"""Bytes of a zip's list of files: a long one alone could fill the memory."""


def open_zip(data: bytes, name: str) -> zipfile.ZipFile:
    """A zip's directory, read only if it is short enough.

    Raises:
        ConfigError: it is no whole zip file, or lists too many files.
    """
    end = data.rfind(b"PK\x05\x06", max(0, len(data) - 65_557))
    if end < 0 or len(data) < end + 22:
        raise ConfigError(f"{name}: it is not a whole zip file; pack it anew.")
    count, length = (int.from_bytes(data[end + at : end + to], "little") for at, to in ((10, 12), (12, 16)))
    if length > _MOST_DIRECTORY or count == 0xFFFF or data[max(0, end - 20) : end - 16] == b"PK\x06\x07":
        raise ConfigError(
            f"{name}: it lists too many files; pack fewer, or add the unpacked folder at the command line: "
            "python -m maml_core tables add FOLDER."
        )
    try:
        return zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ConfigError(f"{name}: the zip file is damaged ({reason(error)}); pack it anew.") from None


class Opened:
    """A member of a zip, open to be read; what is wrong with it is said in a sentence, as a ConfigError."""

    def __init__(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> None:
        """`name` is what to call the zip."""
        self._archive, self._info, self._name = archive, info, name

    def __enter__(self) -> IO[bytes]:
        """Open it."""
        try:
            self._file = self._archive.open(self._info)
        except Exception as error:  # of which zipfile raises many kinds
            raise self._refused(error) from None
        return self._file

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Close it, and say what went wrong."""
        self._file.close()
        if isinstance(error, Exception) and not isinstance(error, ConfigError):
            raise self._refused(error) from None

    def _refused(self, error: Exception) -> ConfigError:
        place = f"{self._name}: {short(self._info.filename)}"
        if "encrypted" in str(error) or "password" in str(error):
            return ConfigError(f"{place} is encrypted; pack it without a password.")
        return ConfigError(f"{place} is damaged ({reason(error)}); pack it anew.")


def short(text: str) -> str:
    """A file's name as it stands in a sentence."""
    return repr(text if len(text) <= 60 else f"…{text[-59:]}")


def reason(error: Exception) -> str:
    """What an error of a library says, in a few words."""
    lines = str(error).splitlines()
    return (lines[0] if lines else type(error).__name__)[:100]
