"""`python -m blackstart` is the command `blackstart`."""

from .cli import main

if __name__ == "__main__":
    main()
