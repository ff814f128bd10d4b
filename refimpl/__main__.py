"""``python -m refimpl`` is the command-line program ``refimpl``."""

from refimpl.models.cli import main

if __name__ == "__main__":
    main()
