"""`python -m watcher` is `voicespool`."""

from watcher.cli.main import main

if __name__ == "__main__":
    main()
