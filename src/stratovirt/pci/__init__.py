"""PCI Express: configuration space, functions and BARs, buses, MSI-X, root ports with hotplug.

``contracts`` says what each part needs of the one above it.
"""
