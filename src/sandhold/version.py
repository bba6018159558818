"""The version of this program: what `sbx --version` prints and each record of a start carries."""

from typing import Final

VERSION: Final = "0.1.0"
