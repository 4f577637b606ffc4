"""The screens of the verbs that keep a mount going: `sync`, `failed`, `abort`, `healthcheck`."""

SYNC_HELP = """\
usage: s3mount sync [--timeout TIME] MOUNTPOINT
Waits until all that is not in the bucket now is there: files that programs have
written (open ones as they are at this moment, what the kernel still holds
included), files that wait for another try, changes of attributes, deletions.
Exit status 0 when all of it is; else 1, and a line for each path that is not,
with the reason. Ctrl-C and --timeout end the waiting, never an upload.
"""

FAILED_HELP = """\
usage: s3mount failed ACTION [--json] [--all] [--to DIR] MOUNTPOINT [PATH]...
Files that could not be stored after their last close, when no program was left
to be told. Their bytes are kept here and tried again at growing intervals, up
to a minute; until then reading them is an error. With --write-back also changes
that the bucket refuses: they wait here, after a restart too, until you say so.
ACTION is one of:
 list    what is kept, since when, why, what to do, when it is tried next
 retry   try now, wait, and say what became of each
 export  write what is kept below DIR (needed), by its paths, for you alone;
         what is there already is not written over
 drop    give it up: the object that was there before is what everybody reads,
         or nothing if there was none; needs a PATH, or --all
PATH is a path as `list` shows it, or an absolute one; of a directory all below
it is meant. Without one all that is kept. Exit status 0 if all of it went well.
"""

JOURNAL_HELP = """\
usage: s3mount journal ACTION [--json] [--cache-dir DIR] [--to DIR] MOUNTPOINT
What --write-back has acknowledged and the bucket does not have yet, read from
the journal on this disk: neither the bucket nor the daemon is asked, nothing is
changed. For a host whose bucket is out of reach, or that will not mount again.
ACTION is one of:
 list    each change that waits: path, what it is, size, since when, its state
 export  write the files that wait below DIR (--to, needed), by their paths, for
         you alone; what is there already is not written over. A file some bytes
         of which are in the bucket only is written as NAME.partial
MOUNTPOINT may be a directory below DIR/instances, too; --cache-dir as the mount
had it. What is damaged is named, and the exit status is 1 then.
"""

ABORT_HELP = """\
usage: s3mount abort [--force] MOUNTPOINT
Fails all that programs in the mount wait for (Input/output error), so that they
go on, or can be killed: a process that waits for a mount cannot be. The mount
stays. What was being stored then has not been, and is told so; what programs
were answered before is not touched.
With --force, where the daemon does not answer or something is left, the kernel
ends the connection: programs get errors, and the mountpoint is dead until it is
mounted again. Needs root.
"""

HEALTHCHECK_HELP = """\
usage: s3mount healthcheck [--timeout TIME] [--ready] MOUNTPOINT
For containers and probes. Exit status 0 when the mount is there, its daemon
answers, and it answers programs, all within TIME (5s); else 1 and one line. It
asks the store nothing, and a store that is down is no reason to restart: with
--ready an outage that the log has told of is a failure, too, and so is a mount
that is being stopped.
"""
