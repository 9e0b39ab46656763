"""config.yaml: its settings with their defaults, what is wrong with it in words, and the folders that it names.

`settings` is the model, `reread` what takes effect without a restart.
May import `jobs`.
"""
