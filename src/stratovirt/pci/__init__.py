"""PCI Express: configuration space, functions, buses, the host bridge, MSI-X and root ports."""
