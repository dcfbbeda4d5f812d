"""Prints a command block of the README: the one whose fence is marked ``bash NAME``.

readme_command.py README NAME
"""

import re
import sys
from pathlib import Path

text = Path(sys.argv[1]).read_text(encoding="utf-8")
found = re.search(rf"^```bash {re.escape(sys.argv[2])}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
if found is None:
    sys.exit(f"{sys.argv[1]} has no block marked 'bash {sys.argv[2]}'")
sys.stdout.write(found[1])
