"""`python -m everlog` is the `everlog` command."""

from everlog.cli import main

if __name__ == "__main__":
    main()
