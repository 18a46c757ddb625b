"""Errors of the lab: one line that names the remedy."""


class LabError(Exception):
    """The lab cannot do what was asked; the text names the cause and the remedy."""


class LabSilentError(LabError):
    """The lab said nothing for longer than it was given."""
