"""mount(8) and /etc/fstab, for real: in namespaces whose /sbin has mount.s3mount; this machine's own is left alone."""

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.mounting import ROOT, Mounts, environment

PROGRAM = """#!{python}
import sys
sys.path.insert(0, {root!r})
from s3mount.cli import mount_main
sys.exit(mount_main())
"""

# $1: what is laid over /sbin, $2: over the home directory $6, $3: fstab, $4: the mountpoint, $5: the log.
OWN = """
mount --make-rprivate /
for pair in "$1 $(realpath /sbin)" "$2 $6"; do
    mount -t overlay overlay -o "lowerdir=${pair% *}:${pair#* }" "${pair#* }"
done
fstab=$3 mnt=$4 log=$5
"""

LIFE = """
mount -T $fstab $mnt; echo "mount $?"
findmnt -n -o SOURCE,FSTYPE $mnt
findmnt -n -o OPTIONS $mnt | tr , '\\n' | grep -x -e rw -e nosuid -e nodev -e noexec -e noatime -e allow_other
stat -c %u $mnt/f; cat $mnt/f
echo new >$mnt/g; echo "write $?"
mount -T $fstab -a; echo "all $?"
mount -T $fstab $mnt; echo "again $?"
grep -c ' mounted ' $log
kill -9 $(sed -n 's/.* mounted .*pid=//p' $log)
until ls $mnt 2>&1 | grep -q 'not connected'; do sleep 0.05; done
mount -T $fstab $mnt; echo "dead $?"
cat $mnt/g
umount $mnt; echo "umount $?"
until grep -o 'lost=.*' $log; do sleep 0.05; done
"""

REFUSALS = """
mount -t s3mount s3://bucket $mnt -o alow_other; echo "unknown $?"
mount -s -t s3mount s3://bucket $mnt -f -o alow_other; echo "sloppy $?"
mount -t s3mount bucket $mnt; echo "source $?"
mount -t s3mount s3://no-such-bucket-anywhere $mnt -o config=$fstab.toml; echo "bucket $?"
"""


def ask(mounts: Mounts, work: Path, script: str) -> "subprocess.CompletedProcess[str]":
    """What a shell says that has mount.s3mount in its /sbin, credentials in its user's ~/.aws and nothing else."""
    if os.geteuid() != 0:
        pytest.skip("needs root for a /sbin of its own")
    server = mounts.place.server
    program = work / "sbin/mount.s3mount"
    (work / "home/.aws").mkdir(parents=True)
    for folder in (work / "sbin", work / "mnt"):
        folder.mkdir()
    program.write_text(PROGRAM.format(python=sys.executable, root=str(ROOT)))
    program.chmod(0o755)
    keys = f"aws_access_key_id = {server.access_key}\naws_secret_access_key = {server.secret_key}\n"
    (work / "home/.aws/credentials").write_text(f"[uploads]\nregion = us-east-1\n{keys}\n[default]\n{keys}")
    log = work / "log"
    table = f'endpoint-url = "{server.endpoint_url}"\nregion = "us-east-1"\nlog-file = "{log}"\n'
    (work / "fstab.toml").write_text(f'{table}cache-dir = "{work / "cache"}"\n')
    options = "allow_other,uid=1000,noexec,noatime,_netdev,nofail,x-systemd.requires=a.service,profile=uploads"
    options = f'{options},config={work / "fstab.toml"},tags="a=b"'
    (work / "fstab").write_text(f"{mounts.place.url.rstrip('/')} {work / 'mnt'} s3mount {options} 0 0\n")
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    places = [work / "sbin", work / "home", work / "fstab", work / "mnt", log, pwd.getpwuid(0).pw_dir]
    return subprocess.run(
        [*namespaces, "sh", "-ec", OWN + "set +e\n" + script, "sh", *map(str, places)],
        env={"PATH": environment(server)["PATH"], "AWS_EC2_METADATA_DISABLED": "true"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_a_line_of_fstab_is_mounted_by_mount_and_unmounted_by_umount(mounts: Mounts, tmp_path: Path) -> None:
    """Credentials come from root's ~/.aws, for mount(8) hands no environment on; `mount -a` leaves alone what is
    mounted; a dead mount is taken over; the kernel has the flags that are its own."""
    place = mounts.place
    place.put("f", b"there\n")
    done = ask(mounts, tmp_path, LIFE)
    flags = ["rw", "nosuid", "nodev", "noexec", "noatime", "allow_other"]
    assert done.stdout.splitlines() == [
        *("mount 0", f"{place.url.rstrip('/')} fuse.s3mount", *flags, "1000", "there", "write 0", "all 0", "again 32"),
        *("1", "dead 0", "new", "umount 0", "lost=0"),
    ], done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "is already mounted" in done.stderr
    assert place.get("g") == b"new\n"


def test_what_mount_cannot_do_is_one_line_and_an_exit_status_of_its_own(mounts: Mounts, tmp_path: Path) -> None:
    """1: words, 32: the mount failed; -f mounts nothing, -s passes over what is unknown."""
    done = ask(mounts, tmp_path, REFUSALS)
    assert done.stdout.splitlines() == ["unknown 1", "sloppy 0", "source 1", "bucket 32"], done.stderr
    said = done.stderr.splitlines()
    assert [line.partition(":")[0] for line in said] == ["mount.s3mount"] * 3
    assert "did you mean allow_other?" in said[0]
    assert "s3://BUCKET" in said[1]
    assert "no-such-bucket-anywhere" in said[2]
