"""Errors that a user can fix.

Each message is one line that names what is wrong, its value and a way out; the commands print it
unchanged. Anything else that is raised is a defect of this package and keeps its traceback.
"""

# Begins the note on an error that a user's hook raised, which is not a defect of this package.
IN_HOOK = "raised in the hook"


class Jaxch5Error(Exception):
    """The base class of these errors; a command prints the error and exits with `exit_code`."""

    exit_code = 1


class ConfigError(Jaxch5Error):
    """A setting has an unknown name, a wrong type or a value out of range."""

    exit_code = 2


class DataError(Jaxch5Error):
    """A picture, a label or a folder of them cannot be used."""


class WeightsError(Jaxch5Error):
    """Weights are not available, or do not fit the model that they are loaded into."""


class CheckpointError(Jaxch5Error):
    """A run cannot be saved or resumed."""


class TrainingError(Jaxch5Error):
    """Training cannot continue."""
