"""Detection of network file systems, which several machines may have mounted at once."""

from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
_NETWORK = {
    *("9p", "afs", "beegfs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "gpfs", "lustre", "nfs", "nfs4"),
    *("orangefs", "panfs", "smb3", "virtiofs", "wekafs"),
}


def on_network(path: Path) -> bool:
    """Whether a path is on a network file system, by the kernel's list of mounts; False if there is no such list."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    depth, kind = 0, ""
    for line in lines:
        before, _, after = line.partition(" - ")
        point = Path(before.split()[4].replace("\\040", " "))
        # The innermost mount counts, and the last of several at one mount point.
        if path.absolute().is_relative_to(point) and len(point.parts) >= depth:
            depth, kind = len(point.parts), after.split()[0]
    return kind in _NETWORK
