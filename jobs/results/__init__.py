"""Results: the outbox, the assembly of a result folder, the manifest and ERROR.txt.

Also the validation of a worker's answers.
May import `jobs.spool`, `files`.
"""
