"""QMP on the wire: ``framing`` cuts requests out of a stream, ``request`` reads one, ``errors``."""
