"""Errors that a user can fix.

Each message is one line that names the thing, its value and the way out; the commands print it
unchanged. Anything else that is raised is a defect of this package and keeps its traceback.
"""

# Begins the note that an error of a user's hook carries: it is not a defect of this package.
IN_HOOK = "raised in the hook"


class Jaxch5Error(Exception):
    """The base of these errors; a command that meets one prints it and exits with `exit_code`."""

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
