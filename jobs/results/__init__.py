"""What is published: the outbox, the result being assembled, the manifest and ERROR.txt.

Also what a worker answered, believed as far as it can be checked.
May import `jobs.spool`, `files`.
"""
