"""Where things are that tests look at."""

from pathlib import Path

#: The whole project.
REPO = Path(__file__).resolve().parents[2]
#: Lists of words and values.
DATA = Path(__file__).parent / "data"
