"""Hosts: connections, host keys, commands, files."""
