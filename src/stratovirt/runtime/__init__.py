"""What surrounds the machine in its process: event loop, clock, log, terminal, clean-up."""
