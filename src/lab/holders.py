"""Which task of which job array makes a replica, known to all programs that see its folder.

Shared disks may have no locks that hold from machine to machine, so none is relied on; that a file
is renamed whole, and that a name can be made only once, is. A replica is held by the newest of its
claims, REPLICA.N, a link that leads nowhere but says ARRAY/TASK. Who takes it from a task that is
gone makes claim N + 1; of two programs that try, one fails. A task whose claim is not the newest
leaves the replica alone.
"""

import os
import re
from dataclasses import asdict
from pathlib import Path

from lab import results
from lab.partial import Partial
from lab.replicas import Replica

Held = tuple[str, int]  # by a job array, its name, and a task, its number in it


def holder(partial: Partial, replica: Replica) -> Held | None:
    """The task that makes a replica, if one has been said to."""
    if not (links := _links(partial, replica)):
        return None
    said = re.fullmatch(r"([a-z_]+-[0-9a-f]{16})/(\d+)", os.readlink(links[-1]))
    return (said[1], int(said[2])) if said else None


def take(partial: Partial, replica: Replica, held: Held) -> bool:
    """Give a replica to a task; False where another program has been faster."""
    links = _links(partial, replica)
    number = int(links[-1].suffix[1:]) + 1 if links else 1
    partial.jobs.mkdir(parents=True, exist_ok=True)
    try:
        os.symlink("{}/{}".format(*held), partial.jobs / f"{_name(replica)}.{number}")
    except FileExistsError:
        return False
    return True


def _links(partial: Partial, replica: Replica) -> list[Path]:
    """Those of a replica, the newest last."""
    found = (path for path in partial.jobs.glob(f"{_name(replica)}.*") if path.is_symlink())
    numbered = (path for path in found if path.suffix[1:].isdigit())
    return sorted(numbered, key=lambda path: int(path.suffix[1:]))


def _name(replica: Replica) -> str:
    return results.digest(asdict(replica))
