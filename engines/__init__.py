"""Speech behind one protocol: `base` is the protocol, `registry` the engines that are installed, `errors` their errors.

One room for each engine, and rooms for what engines share. Heavy libraries are imported inside functions only,
but for `engines.torch` and the `net` of an engine. May import `files`.
"""
