"""QMP's wire format: ``framing`` splits a stream into requests, ``request`` parses one."""
