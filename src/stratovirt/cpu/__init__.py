"""vCPU state at start, one set of modules per architecture: topology, features, registers."""
