"""The one exception of the configuration layer."""

from stratovirt.errors import StratovirtError


class ConfigError(StratovirtError):
    """An option is wrong; the text names the option, the value and what is allowed."""
