"""Files: written whole or not at all, and read with one sentence where that fails."""

import hashlib
import json
import re
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError

from lib.errors import InputError


def write_atomically(path: Path, write) -> None:
    """Call `write(temporary path)` and rename the result to `path`: a kill leaves the old file or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        temporary.chmod(0o644)  # safetensors writes files that only their owner may read
        temporary.replace(path)
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk as its own error
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"could not write {path} ({reason}); free some space and give the same command again, or "
                         "choose another folder") from error  # fmt: skip


def write_json(path: Path, content) -> None:
    """Write JSON atomically."""
    write_atomically(path, lambda p: p.write_text(json.dumps(content, indent=1) + "\n"))


def read_json(path: Path):
    """Read JSON; one sentence if it is missing or broken."""
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; is this the folder of a checkpoint or a run?") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    except ValueError as error:  # broken JSON, or bytes that are no text
        raise InputError(f"{path} is not valid JSON ({error}); restore or delete it") from error


def sha256(path: Path) -> str:
    """Checksum of a file as hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sha256(path: Path) -> str:
    """Checksum of a file of weights; one sentence if it is not the one that is known.

    Known are the digits in ``<file>.sha256`` beside it, and those at the end of its name (``name-57934424.pth``, as
    torch's hub writes them). Where there are none, nothing is compared.
    """
    found, note = sha256(path), path.with_name(path.name + ".sha256")
    known = re.findall(r"-([0-9a-f]{8,64})$", path.stem)
    if note.is_file():
        known += note.read_text().split()[:1] or ["none"]
    for digits in known:
        if not found.startswith(digits.lower()):
            what = f"{path} has the checksum {found[:12]}..., not {digits[:12]}..."
            raise InputError(f"{what}: it is damaged or another file; fetch it again")
    return found
