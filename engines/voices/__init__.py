"""Reference recordings: read, measured, and judged before an engine hears them.

No torch.
May import `engines.errors`.
"""
