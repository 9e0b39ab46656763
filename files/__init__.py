"""The lowest room: what everything above needs from the file system and from text.

Durable writes, safe opens by descriptor, mounts, caches; YAML and JSON as trees with lines; printable text.
Imports nothing of the others.
"""
