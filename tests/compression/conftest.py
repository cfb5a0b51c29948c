"""So that the tests here can import gaussian.py beside them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
