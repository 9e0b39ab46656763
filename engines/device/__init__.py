"""The device that a neural engine runs on: GPU or CPU, precision, free memory, number of threads.

`runtime` chooses it, `allowance` reads the limits of control groups, `torch_report` examines torch for the doctor.
May import `engines.base`, `engines.errors`.
"""
