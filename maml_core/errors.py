"""Every error the library raises on purpose, each with a text made to be shown as it is.

    MamlError
    ├── ConfigError          a value breaks a rule of the configuration
    ├── DeviceError          the chosen device is not on this machine
    ├── EngineError          an engine cannot take this model or algorithm
    ├── CheckpointError      bytes that are not a checkpoint of this run
    ├── ImportRefusedError   a file that is not an exported run of this lab
    └── StoreError           the database cannot be opened, read or written
        ├── StoreDamagedError    the file is not a sound database
        ├── StoreAwayError   it cannot be reached just now: whoever waits may find it again
        ├── RunNotFoundError no run with that id
        ├── RunBusyError     somebody else trains the run, or its status forbids the action
        └── NotYoursError    somebody else started the run or brought the table

A text is one sentence (two where the remedy needs its own) that names what was wrong, the rule and the
remedy. Anything else that escapes is a defect, of ours or of a model's own code, not of the user's input; `brief`
puts it into a line.
"""


class MamlError(Exception):
    """Base of all errors whose text is fit for a screen or a terminal.

    >>> from maml_core import RunConfig
    >>> try:
    ...     RunConfig.from_dict({"shots": 0})
    ... except MamlError as error:
    ...     print(error)
    shots = 0 is not allowed: it must be a whole number from 1 to 1,000; try 10.
    """


class ConfigError(MamlError):
    """A value breaks a rule of the configuration."""


class DeviceError(MamlError):
    """The chosen device is not on this machine."""


class EngineError(MamlError):
    """An engine cannot take this model or algorithm."""


class CheckpointError(MamlError):
    """Bytes that are not a checkpoint of this run."""


class ImportRefusedError(MamlError):
    """A file that is not an exported run of this lab."""


class StoreError(MamlError):
    """The database cannot be opened, read or written."""


class StoreDamagedError(StoreError):
    """The file is not a sound database."""


class StoreAwayError(StoreError):
    """The database cannot be reached just now: its file is gone, or another process holds it."""


class RunNotFoundError(StoreError):
    """No run with that id."""


class RunBusyError(StoreError):
    """Somebody else trains the run, or its status forbids the action."""


class NotYoursError(StoreError):
    """Somebody else started the run or brought the table, and only they or an admin may change it."""


def brief(error: BaseException) -> str:
    """What went wrong, of an error that was not raised on purpose, in one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
