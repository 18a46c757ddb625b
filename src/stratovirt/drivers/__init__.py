"""The drivers of -device, one a file, imported when it is named.

A file has the driver's options, its buses, `make`, and what lists and checks need to know of it.
"""
