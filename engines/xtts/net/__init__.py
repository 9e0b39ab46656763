"""The networks of XTTS-v2: GPT with KV cache and continuous batching, HiFi-GAN vocoder, cache of latents.

Imports torch when it is imported.
May import `engines.torch`, `engines.voices` and below.
"""
