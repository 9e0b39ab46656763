"""Where a neural engine runs: GPU or CPU, precision, memory that is free, processors it may use.

`runtime` decides, `allowance` reads the cgroup, `torch_report` asks torch in a process of its own.
May import `engines.base`, `engines.errors`.
"""
