"""The folder of reference data too large for the repository; it lies beside it, or is absent."""

from pathlib import Path

SHARED = Path(__file__).resolve().parents[3] / "shared"
