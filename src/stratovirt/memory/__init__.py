"""Guest memory: RAM (``ram``) and the map of regions with its listeners (``address_space``)."""
