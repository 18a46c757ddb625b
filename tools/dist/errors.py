"""What ends a build of the executables."""


class DistError(Exception):
    """An executable cannot be built; the text says what is missing."""
