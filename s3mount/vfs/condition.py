"""How a mount is doing in one line, for a service manager; pure, no state.

It looks at the files that are known and builds no path: `figures` is for people who ask, this is asked every few
seconds, however many names the kernel holds.
"""

from dataclasses import dataclass

from s3mount.vfs.changing import Changing
from s3mount.vfs.closing import named, unstored
from s3mount.vfs.tree import Tree


@dataclass(frozen=True, slots=True)
class Condition:
    """Files that hold what the bucket lacks, those of them on their way, those that are tried again; changes that had
    been answered and then failed; of --write-back, changes that wait in the journal, and those the bucket refuses."""

    unstored: int = 0
    uploading: int = 0
    failing: int = 0
    failed: int = 0
    waiting: int = 0
    refused: int = 0

    def __str__(self) -> str:
        said = []
        if self.unstored:
            said.append(f"{self.unstored} files not in the bucket yet, {self.uploading} being uploaded")
        if self.waiting:
            said.append(f"{self.waiting} changes safe in the journal, not in the bucket yet")
        said = said or ["everything written is in the bucket"]
        if self.refused:
            said.append(f"{self.refused} changes are refused by the bucket, see s3mount failed list")
        if self.failing:
            said.append(f"{self.failing} uploads failed and are tried again")
        if self.failed:
            said.append(f"{self.failed} deletions or attributes failed, see s3mount status")
        return "; ".join(said)


def condition(tree: Tree, changing: Changing) -> Condition:
    dirty = uploading = failing = 0
    for inode in tree.with_files:
        state = inode.own
        if not named(inode):
            continue
        if unstored(state):
            dirty += 1
            uploading += state.file is not None and state.file.busy
        failing += state.failing
    failed = len(changing.failures) + len(tree.deleting.failures)
    journaled = tree.journaled
    if journaled is None:
        return Condition(dirty, uploading, failing, failed)
    waiting, refused = journaled.waiting.files, len(journaled.spool.parked)
    return Condition(dirty, uploading, failing, failed, waiting, refused)
