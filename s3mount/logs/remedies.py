"""What to do about a failure, in one sentence: by the words of its line, else by the class of its exception. Pure."""

from s3mount import errors

REPORT = "report it with the traceback that is in the log"
ELSE = "the log has the details"

BY_WORDS: tuple[tuple[str, str], ...] = (
    (" bug", REPORT),
    ("store unreachable", "look at the network and the store; it is asked until it answers"),
    ("store reachable again", "nothing, it answers again"),
    ("keys hidden", "rename these objects with another S3 tool: they have names that no path can have"),
    ("conflict", "compare the copy below .s3mount/conflicts/ with the object, then delete it or put it in its place"),
    ("staging directory refused", "make room on the disk of --cache-dir, or choose another"),
    ("file content dropped", "write the file again: what could not be stored was told by close or fsync, and is gone"),
    ("attributes not stored", "change them again once the reason is gone; they were set back to what is stored"),
    ("files were not deleted", "delete them again once the reason is gone"),
    ("left staging", "raise --memory-limit or --staging-limit"),
    ("cache on disk was given up", "look at the disk of --cache-dir: full, read-only, slow or gone; reading goes on"),
    ("cached piece was damaged", "nothing, it was fetched anew; if it comes again, look at the disk of --cache-dir"),
    ("credentials were not renewed", "renew the credentials where they come from; no restart is needed"),
    ("control socket was not made", "make /run/user/UID, or /run/s3mount for root, writable, and mount again"),
    ("control connection was refused", "ask as the user who has mounted, or as root"),
    (
        "changes wait in the journal",
        "mount again with --write-back: they are sent then; s3mount journal list shows them",
    ),
    ("loses what --write-back has", "give a --cache-dir on a disk that stays"),
    ("journal was not written", "make room on the disk of --cache-dir"),
    ("deletions cannot be written down", "make room on the disk of --cache-dir"),
    ("store lacks conditions", "have one client write to an object, or use a store that keeps conditions"),
    ("store refuses conditions", "have one client write to an object, or use a store that keeps conditions"),
    ("cut short elsewhere", "let that machine finish it; if it is gone, look at both directories and repeat the move"),
)
"""Part of the words, and the remedy; the first that matches."""

BY_CLASS: dict[type[BaseException], str] = {
    errors.AccessDenied: "check the credentials and what the policy allows; new ones are taken without a restart",
    errors.Archived: "restore the object from its archive first",
    errors.ClockSkew: "set the clock, S3 refuses requests that are 15 minutes off",
    errors.NoSuchBucket: "create the bucket again, or unmount",
    errors.KeyTooLong: "use a shorter path: a key ends at 1024 bytes",
    errors.PreconditionFailed: "another client changed the object: open the file again and repeat the change",
    errors.Stale: "another client changed the object: open the file again and repeat the change",
    errors.RangeNotSatisfiable: "another client changed the object: open the file again",
    errors.BadReply: "look for what changes replies between here and the store: a proxy, or the store itself",
    errors.NotImplementedByStore: "the store lacks the operation: s3mount status shows what it can do",
    errors.LostReply: "look at the network and the store; the file is tried again with the next close or fsync",
    errors.Unavailable: "look at the network and the store; it is asked again by itself",
    errors.StoreError: "the reason is the store's: look it up in its documentation",
    errors.StagingFull: "raise --staging-limit, or put --cache-dir on a larger disk",
    errors.FileTooBig: "raise --max-file-size or --part-size",
    errors.MetadataFull: "store fewer or shorter extended attributes",
    errors.TooMany: "raise --rename-limit, or move the directory in parts",
    errors.Lost: "raise --memory-limit or --staging-limit",
}


def remedy_of(words: str, error: type[BaseException] | None) -> str:
    """What whoever runs the mount can do."""
    for part, remedy in BY_WORDS:
        if part in words:
            return remedy
    for kind in error.__mro__ if error is not None else ():
        if kind in BY_CLASS:
            return BY_CLASS[kind]
    return REPORT if error is not None and not issubclass(error, errors.S3MountError | OSError) else ELSE
