"""``python -m sairlib.data``: see ``sairlib.describe``."""

from sairlib.describe import main

if __name__ == "__main__":
    main()
