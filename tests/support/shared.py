"""Where the reference data lies that is too large for the repository: beside it, or nowhere."""

from pathlib import Path

SHARED = Path(__file__).resolve().parents[3] / "shared"
