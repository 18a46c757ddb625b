"""The commands by topic; importing this package registers all of them."""

from stratovirt.monitor.commands import (
    block,
    descriptors,
    hot_replace,
    human,
    introspection,
    lifecycle,
    machine,
    memory,
    migration,
    objects,
    trace,
)

__all__ = [
    "block",
    "descriptors",
    "hot_replace",
    "human",
    "introspection",
    "lifecycle",
    "machine",
    "memory",
    "migration",
    "objects",
    "trace",
]
