"""Host files, sockets and devices: opened by the machine, or its broker after lockdown."""
