"""A cluster on one machine: hosts with their own network, file system, processes and sshd.

docs/development.md says what it is for. `python -m tests.rig --help` is the way in by hand,
`tests/rig/fixtures.py` the way in from tests.
"""
