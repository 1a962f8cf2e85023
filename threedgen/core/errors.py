"""The errors a user can meet. Each carries the exit status that the command line returns.

A message is one line: what is wrong, where, and what to do about it.
"""


class ThreedgenError(Exception):
    """Something failed for a reason that the user can act on."""

    exit_status = 1


class ConfigError(ThreedgenError):
    """A setting, a prompt or a file name given by the user cannot be used."""

    exit_status = 2


class WeightsMissingError(ThreedgenError):
    """Model weights are not where the config says."""

    exit_status = 3


class EmptyMeshError(ThreedgenError):
    """The scene has no surface to export."""

    exit_status = 4


class DivergedError(ThreedgenError):
    """An optimisation came to nothing: its numbers are no numbers any more, or its scene is empty or full."""

    exit_status = 4


class StorageError(ThreedgenError):
    """A file or folder cannot be written: the disk is full, or writing is not allowed."""

    exit_status = 5
