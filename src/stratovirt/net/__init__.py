"""The host side of network cards: taps."""
