"""The machine's process: event loop, clock, log, terminal, clean-up."""
