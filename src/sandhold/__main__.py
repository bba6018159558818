"""`python -m sandhold` and the `sbx` command."""

import sys

from sandhold.cli.main import main as command_line


def main() -> None:
    """Run the command line and exit with its status."""
    sys.exit(command_line())


if __name__ == "__main__":
    main()
