"""Host PCI functions passed through to the guest."""
