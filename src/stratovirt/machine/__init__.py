"""Boards: each composes RAM, devices and boot code into a machine, and has its map as data."""
