"""Resolve the pins of every supported Python: writes `constraints/pyXY.txt`.

The running Python is resolved as pip would install it here; the others from wheels alone, which
proves that a set exists, not that the tests pass with it. Each file's header says which it is.
"""

import json
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
EXTRAS = "train,serve,qlora,ray,deepspeed,postgres,mlflow,otel,dev"
PYTHONS = ((3, 11), (3, 12), (3, 13))
# No local label: 2.13.0 matches the CPU build and a plain one alike.
TORCH = "torch==2.13.0"


def resolve(python: tuple[int, int]) -> list[str]:
    here = python == sys.version_info[:2]
    version = ".".join(map(str, python))
    target = FOLDER / ".target"
    platforms = [*(f"manylinux_2_{minor}_x86_64" for minor in range(5, 40)), "manylinux2014_x86_64"]
    elsewhere = [
        *("--python-version", version, "--only-binary", ":all:", "--target", str(target)),
        *(word for platform in platforms for word in ("--platform", platform)),
    ]
    command = [
        *(sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"),
        *("--report", "-", TORCH, *([] if here else elsewhere)),
        *(requirements() if not here else [f"{FOLDER.parent}[{EXTRAS}]"]),
    ]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout)["install"]
    pins = {item["metadata"]["name"].lower(): item["metadata"]["version"] for item in found}
    pins.pop("trimtab", None)
    return [f"{name}=={version.partition('+')[0]}" for name, version in sorted(pins.items())]


def requirements() -> list[str]:
    """What pyproject.toml asks for: pip resolves a folder for another Python only from a wheel."""
    import tomllib

    project = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return [
        *project["dependencies"],
        *(line for name in EXTRAS.split(",") for line in extras[name]),
    ]


def main() -> None:
    for python in PYTHONS:
        name = f"py{python[0]}{python[1]}"
        print(f"resolving {name}", flush=True)
        pins = resolve(python)
        run = "the tests run with it" if python == sys.version_info[:2] else "resolved, not run"
        head = [
            f"# Pins for CPython {python[0]}.{python[1]} on Linux x86-64: {run}.",
            "# make lock",
        ]
        (FOLDER / f"{name}.txt").write_text("\n".join([*head, *pins]) + "\n")


if __name__ == "__main__":
    main()
