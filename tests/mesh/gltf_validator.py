"""The Khronos glTF validator (npm), installed at the version of package-lock.json into build/, which git ignores."""

import json
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = HERE.parent.parent / "build" / "gltf-validator"
SCRIPT = """
const { validateBytes } = require('gltf-validator');
const { readFileSync } = require('fs');
(async () => {
  const reports = [];
  for (const name of process.argv.slice(1)) reports.push(await validateBytes(new Uint8Array(readFileSync(name))));
  console.log(JSON.stringify(reports));
})();
"""


class ValidatorMissing(Exception):
    """It is not installed and cannot be; the message says why."""


def validate(*glbs: Path) -> list[dict]:
    """The validator's report on each file: `issues` has numErrors, numWarnings, numInfos and messages."""
    _install()
    command = ["node", "-e", SCRIPT, "--", *(str(glb.resolve()) for glb in glbs)]
    result = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=True, timeout=120)
    return json.loads(result.stdout)


def _install() -> None:
    if not shutil.which("node") or not shutil.which("npm"):
        raise ValidatorMissing("the glTF validator needs node and npm")
    FOLDER.mkdir(parents=True, exist_ok=True)
    lock = (HERE / "package-lock.json").read_bytes()
    stamp = FOLDER / "installed"  # written last: an installation that was cut off is done again
    if stamp.exists() and stamp.read_bytes() == lock:
        return
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, FOLDER)
    command = ["npm", "ci", "--no-audit", "--no-fund"]
    result = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=120)
    if result.returncode:
        raise ValidatorMissing(f"npm could not install the glTF validator: {result.stderr.strip()[-200:]}")
    stamp.write_bytes(lock)
