"""QMP's wire format: ``framing`` splits a stream into requests, ``request`` parses one.

The monitor reads by it, and the broker, which grants what clients name.
"""
