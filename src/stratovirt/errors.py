"""The root of this project's exceptions: each layer derives its own from it."""


class StratovirtError(Exception):
    """Something a user can understand and act on; the text is one line."""
