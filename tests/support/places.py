"""Where the tests find the repository, and material that lies beside it on some machines."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
