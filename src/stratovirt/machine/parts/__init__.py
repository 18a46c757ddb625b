"""Parts of boards of any architecture: see ``machine.part`` for their contract."""
