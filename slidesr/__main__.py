"""`python -m slidesr` is the `slidesr` command."""

from slidesr.cli import main

if __name__ == "__main__":
    main()
