"""Defines the errors that a user can fix.

Each message is one line that says what is wrong, names the value and, if one is known, gives a way
out; commands print it unchanged. Other exceptions are defects of this package or of a user's hook,
and a command reports them as such.
"""

# Begins the note that is added to an error raised by a user's hook, since such an error is not a
# defect of this package.
IN_HOOK = "raised in the hook"


class Jaxch5Error(Exception):
    """The base class of this package's errors; a command prints one and exits with `exit_code`."""

    exit_code = 1


class ConfigError(Jaxch5Error):
    """A setting has an unknown name, a wrong type or a value out of range."""

    exit_code = 2


class DataError(Jaxch5Error):
    """A picture, a label or a set of pictures cannot be used."""


class WeightsError(Jaxch5Error):
    """Weights are not available, cannot be read, or do not fit the model they are loaded into."""


class CheckpointError(Jaxch5Error):
    """A run, or a file that a command writes, cannot be saved or read again."""


class TrainingError(Jaxch5Error):
    """Training cannot continue."""
