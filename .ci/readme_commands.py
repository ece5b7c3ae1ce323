"""Print the one-line commands in the bash blocks of a Markdown file, as they stand."""

import re
import sys
from pathlib import Path

text = Path(sys.argv[1]).read_text(encoding="utf-8")
for block in re.findall(r"^```bash\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
    sys.stdout.write(block)
