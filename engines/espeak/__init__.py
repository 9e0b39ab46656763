"""eSpeak NG: the engine that is built in, on the CPU, without torch.

`engine` is the engine, `process` the small process that forks for each chunk, `voices` the languages and voices.
May import `engines.base`, `engines.errors`.
"""
