"""Find versions of all requirements for every Python that is supported; nothing is installed.

    python tools/resolve.py            # a line for each Python and each group of requirements
    python tools/resolve.py --lowest   # write constraints/lowest.txt

uv reads the package index and resolves for a Python that need not be here. pip's --python-version
would not do: pip judges the markers in settings.ini by the Python that runs it. The extra `cpu` is
left out, because its torch comes from PyTorch's own index.
"""

import argparse
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from configparser import ConfigParser
from itertools import product
from pathlib import Path
from shlex import split

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.11.9", "3.12.9", "3.13.9")  # a late patch release: some libraries refuse early ones
MAIN, LOWEST = ("constraints/main.txt", "constraints/lowest.txt")
PINNED = ["-c", str(ROOT / MAIN)]
# name → extras and options of uv
GROUPS = {
    "package": ([], ["--only-binary", ":all:"]),
    "extras": (["server", "ray", "lmeval", "track", "nutpie", "nano", "quantize"], []),
    "vllm": (["vllm"], ["--only-binary", ":all:"]),
    "make install": (["dev", "nano"], PINNED),
}


def requirements(extras=()):
    "Return the requirements of settings.ini, one a line."
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    names = ["requirements", *(f"{extra}_requirements" for extra in extras)]
    found = [line for name in names for line in split(config["DEFAULT"][name])]
    return "\n".join(found)


def resolve(python, extras=(), options=()):
    "Return uv's exit status, the versions that it found, and what it says."
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header"]
    command += ["--no-annotate", "--python-version", python, *options, "-"]
    done = subprocess.run(command, input=requirements(extras), capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def check(case):
    "Return a line on one Python and group, and whether it can be resolved."
    python, (name, (extras, options)) = case
    status, found, message = resolve(python, extras, options)
    if status:
        return f"{python:8} {name:12} cannot be resolved\n{message}", False
    shown = [p for p in found.splitlines() if p.split("==")[0] in ("torch", "trl", "pymc", "arviz")]
    return f"{python:8} {name:12} {len(found.splitlines())} packages: {', '.join(shown)}", True


def lowest():
    "Return the lowest versions that settings.ini allows, with the newest of what these need."
    status, found, message = resolve(PYTHONS[0], options=["--resolution", "lowest-direct"])
    if status:
        sys.exit(message)
    lines = [line for line in found.splitlines() if not line.startswith(("nvidia-", "cuda-"))]
    head = "# The lowest versions that settings.ini allows: python tools/resolve.py --lowest"
    return "\n".join([head, *lines]) + "\n"


def stale(text):
    "Return the requirements whose lower bound on Python 3.11 is not what a constraints file says."
    pins = dict(line.split("==") for line in text.splitlines() if "==" in line)
    wanted = [Requirement(line) for line in requirements().splitlines()]
    here = [r for r in wanted if not r.marker or r.marker.evaluate({"python_version": "3.11"})]
    return [str(r) for r in here if r.name not in pins or bound(r) != Version(pins[r.name])]


def bound(requirement):
    "Return the lower bound of a requirement."
    return next(Version(s.version) for s in requirement.specifier if s.operator == ">=")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lowest", action="store_true", help=f"write {LOWEST}")
    if parser.parse_args().lowest:
        ROOT.joinpath(LOWEST).write_text(lowest(), encoding="utf-8")
        return
    with ThreadPoolExecutor(4) as pool:
        lines, good = zip(*pool.map(check, product(PYTHONS, GROUPS.items())))
    print("\n".join(lines))
    sys.exit(not all(good))


if __name__ == "__main__":
    main()
