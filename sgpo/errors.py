"""What can go wrong for a user, by kind. Every message is one line that names the file, row or option, and the fix.

All of them are `ValueError`s, so `except ValueError` still catches them. What the operating system refuses (a full
disk, a missing permission) is an `OSError`, as everywhere in Python.
"""

from __future__ import annotations


class SGPOError(ValueError):
    """Any error that a user of `sgpo` can cause and fix."""


class InputError(SGPOError):
    """A problem file, recipe, option or argument that cannot be used as it is."""


class EndpointError(SGPOError):
    """A model behind an endpoint that cannot be reached, refuses, or does not answer as it should."""


class BudgetError(EndpointError):
    """The budget of a run against an endpoint is spent; what was answered is kept."""


class BankError(SGPOError):
    """A strategy bank that cannot be opened, is of another version, or does not hold what was asked for."""


class RunDirectoryError(SGPOError):
    """A run directory that holds another run, cannot be resumed with these options, or cannot be read."""


class DivergedError(SGPOError, FloatingPointError):
    """Training whose loss, gradient or weights are not finite any more; nothing of that was saved."""
