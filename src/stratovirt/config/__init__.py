"""The machine as the user described it: options, their definitions, and how they are read.

``kinds`` says how one value is read, ``options`` how a set of them forms an option, ``keyval``
splits ``a,b=c``, and one module per option family defines the options themselves.  ``command_line``
turns argv into a ``VmConfig``.  Nothing here opens a file.
"""
