"""The state folder: folders are states, and every change of state is one rename.

Claims, the lock, copies of recordings, names in the inbox.
May import `jobs.spec`, `files`.
"""
