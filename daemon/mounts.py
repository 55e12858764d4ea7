"""Which filesystem a folder is on, and what that means for events and leases."""

import os
from pathlib import Path

import psutil

# Other machines (or a program behind FUSE) write to these: the local kernel sends no events for that and knows
# no such writer. Every "fuse.NAME" counts too, but not "fuseblk": that is a local disk (NTFS, exFAT).
NETWORK_FILESYSTEMS = frozenset({
    *("9p", "afs", "beegfs", "ceph", "cifs", "davfs", "drvfs", "fuse", "gfs2", "glusterfs", "lustre", "ncpfs"),
    *("nfs", "nfs4", "ocfs2", "orangefs", "prl_fs", "pvfs2", "smb3", "smbfs", "v9fs", "vboxsf", "virtiofs"),
    "vmhgfs",
})  # fmt: skip


def mount_point(path: Path) -> Path:
    """Find the mount point that a path lies under; the path need not exist."""
    return Path(_mount(path)[0])


def filesystem(path: Path) -> str:
    """Name the type of the filesystem under a path ("ext4", "nfs4", "fuse.sshfs"); "" where nobody knows."""
    return _mount(path)[1]


def is_network(fstype: str) -> bool:
    """Tell whether files on such a filesystem may be written unseen by this kernel."""
    return fstype in NETWORK_FILESYSTEMS or fstype.startswith("fuse.")


def _mount(path: Path) -> tuple[str, str]:
    resolved = os.path.realpath(path)
    found = ("/", "")
    try:
        partitions = psutil.disk_partitions(all=True)
    except (OSError, psutil.Error):
        return found
    for part in partitions:
        # In the order of mounting: of two at one place (autofs, then nfs) the later one hides the earlier.
        inside = resolved == part.mountpoint or resolved.startswith(part.mountpoint.rstrip("/") + "/")
        if inside and len(part.mountpoint) >= len(found[0]):
            found = (part.mountpoint, part.fstype)
    return found
