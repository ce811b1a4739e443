import sys

from tinymixnet.cli import main

if __name__ == "__main__":
    sys.exit(main())
