"""The machine's process: event loop, clock, log, traces, threads, terminal, sockets, clean-up."""
