"""Guest memory: RAM back ends (``ram``) and the address map (``address_space``)."""
