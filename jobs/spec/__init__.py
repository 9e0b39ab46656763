"""From a job file's bytes to a `JobSpec`, or to everything that is wrong with it, with lines.

`parse` is the way in; the other files each check one thing.
May import `jobs.errors`, `jobs.names`, `jobs.order`, `jobs.text`, `engines.checkpoints`.
"""
