"""From a job's text to the pieces that are spoken, with the pauses between them.

Pure.
Imports nothing of the others.
"""
