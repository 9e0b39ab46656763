"""From a job's text to pieces, with the pauses between them.

Pure.
Imports no other room.
"""
