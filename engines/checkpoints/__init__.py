"""Recognition of checkpoints, the files that they need, and the published base models.

The architecture is read from names and shapes of tensors; variant and vocabulary of F5-TTS too. No torch.
May import `engines.modelfiles`, `files`.
"""
