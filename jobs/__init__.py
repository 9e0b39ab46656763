"""The domain: one job's life, from bytes to a published folder. `pipeline` is the story.

No events, no terminal, no model, no torch.
May import `engines`, `files`.
"""
