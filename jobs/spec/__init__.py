"""From a job file's bytes to a `JobSpec`, or to all its problems with their lines.

Start with `parse`; each of the other files checks one thing.
May import `jobs.errors`, `jobs.names`, `jobs.order`, `jobs.text`, `engines.checkpoints`.
"""
