"""The configuration with which container clients pull unchanged image names through this engine.

Pure: no I/O. `entrepot.core.mirror_configuration.clients` makes the files of a client,
`entrepot.core.mirror_configuration.files` merges them into those that are there.
"""
