"""The test accelerator: a client on a UNIX socket takes the place of the vCPUs."""
