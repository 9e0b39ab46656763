"""What commands show on a terminal: tables and sentences that fit, a module for each command.

Takes data, returns what rich prints; reads nothing and decides nothing.
May import `watcher.models`, `watcher.doctor` and below for their data.
"""
