"""Check that a wheel holds what git has under sktransfer/, and nothing else."""

import subprocess
import sys
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

MAX_BYTES = 4_000_000
DATA = {
    "sktransfer/py.typed",
    "sktransfer/backbones/mini.json",
    "sktransfer/backbones/mini.safetensors",
}

wheel = Path(sys.argv[1])
tracked = subprocess.run(
    ["git", "ls-files", "sktransfer"], check=True, capture_output=True, text=True
).stdout.splitlines()
expected = DATA | {name for name in tracked if name.endswith(".py")}
names = set(ZipFile(wheel).namelist())
packed = {
    name for name in names if not PurePosixPath(name).parts[0].endswith(".dist-info")
}
problems = [f"missing from the wheel: {name}" for name in sorted(expected - packed)]
problems += [f"not expected in the wheel: {name}" for name in sorted(packed - expected)]
problems += [f"not in git: {name}" for name in sorted(DATA - set(tracked))]
if wheel.stat().st_size >= MAX_BYTES:
    problems.append(f"{wheel.name} has {wheel.stat().st_size} bytes, limit {MAX_BYTES}")
if problems:
    sys.exit("\n".join(problems))
print(f"{wheel.name}: {len(packed)} files, {wheel.stat().st_size} bytes")
