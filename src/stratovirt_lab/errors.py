"""What goes wrong in the lab, said in one line with its remedy."""


class LabError(Exception):
    """The lab cannot do what was asked; the text names the cause and the remedy."""
