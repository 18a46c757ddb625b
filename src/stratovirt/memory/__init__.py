"""Guest memory: RAM back ends (``ram``) and the map of who answers where (``address_space``)."""
