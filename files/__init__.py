"""The lowest room: the file system and text, for all other rooms.

Durable writes, safe opens by descriptor, mounts, caches; YAML and JSON as trees with lines; printable text.
Imports no other room.
"""
