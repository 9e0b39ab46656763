"""The networks of XTTS-v2: GPT-2 decoding in batches, HiFi-GAN, and the speech made of chunks.

Imports torch when it is imported.
May import `engines.torch`, `engines.voices` and below.
"""
