"""The error type of ozone."""


class OzoneError(Exception):
    """An error for the user; the text is one line naming the argument, value and allowed values."""
