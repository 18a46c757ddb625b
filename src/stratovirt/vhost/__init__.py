"""Devices served outside this process: the front end's half of vhost-user."""
