"""The plugin is not installed: installed, it would guard every storage on this machine."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
