"""The one error a user of ozone sees."""


class OzoneError(Exception):
    """One clear line that names the argument, the value and what is allowed."""
