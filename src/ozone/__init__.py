"""``ozone``: the jail that `stratovirt` runs in.

`options` is the command line; `jail` the directory that becomes the root; `view` what a program
needs to see of the host; `cgroup` its limits; `launch` the namespaces and the way in.
"""
