"""Which file systems several machines may have mounted at once."""

from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
_NETWORK = {
    *("9p", "afs", "beegfs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "gpfs", "lustre", "nfs", "nfs4"),
    *("orangefs", "panfs", "smb3", "virtiofs", "wekafs"),
}


def on_network(path: Path) -> bool:
    """Whether a path lies on a network file system, by the kernel's list of mounts; False where there is no such list."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    depth, kind = 0, ""
    for line in lines:
        before, _, after = line.partition(" - ")
        point = Path(before.split()[4].replace("\\040", " "))
        # The innermost mount counts, and of several at one point the last.
        if path.absolute().is_relative_to(point) and len(point.parts) >= depth:
            depth, kind = len(point.parts), after.split()[0]
    return kind in _NETWORK
