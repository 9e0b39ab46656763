"""What torch engines share: weights, linear layers, packing, sampling, vocoders, mel spectrograms.

Imports torch when it is imported; entered from inside functions alone.
May import `engines.checkpoints`, `engines.modelfiles`, `files`.
"""
