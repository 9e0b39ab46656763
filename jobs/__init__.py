"""The domain: the life of a job, from a file's bytes to a published folder. Start with `pipeline`.

No events, no terminal, no model, no torch.
May import `engines`, `files`.
"""
