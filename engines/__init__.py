"""Speech engines: `base` is their protocol, `registry` lists those installed, `errors` has their errors.

One room for each engine, and rooms for what engines share. Heavy libraries are imported inside functions, except in
`engines.torch` and the `net` of an engine. May import `files`.
"""
