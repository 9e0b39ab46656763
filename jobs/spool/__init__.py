"""The state folder: each state of a job is a folder, and each change of state is one rename.

Claims, the lock, copies of recordings, names in the inbox.
May import `jobs.spec`, `files`.
"""
