"""Which model a checkpoint is, what it needs next to it, and where the published base models are.

Architecture by its tensors' names and shapes; F5 variant and vocabulary; no torch.
May import `engines.modelfiles`, `files`.
"""
