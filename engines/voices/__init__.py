"""Reference recordings: read, measured and checked before an engine uses them.

No torch.
May import `engines.errors`.
"""
