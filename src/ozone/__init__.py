"""``ozone``: the jail that `stratovirt` runs in.

`options` is the command line; `jail` the directory that becomes the root; `view` the host files
that a program needs; `cgroup` its limits; `launch` creates the namespaces and runs the program.
"""
