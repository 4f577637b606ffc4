# shellcheck shell=bash
# What scripts/demo and scripts/test share: they find what is missing and install it, and are quick when nothing is.

set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
distribution_python=/usr/bin/python3

say() { printf '%s\n' "== $*" >&2; }

die() {
    printf '%s\n' "$(basename "$0"): $*" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "root is needed for: $* (or install sudo)"
    fi
}

# The packages named, by apt; nothing when none is named.
install_packages() {
    [ $# -gt 0 ] || return 0
    command -v apt-get >/dev/null || die "install what Debian calls $*, then run this again"
    say "installing $*"
    as_root apt-get -qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 update
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 \
        install --no-install-recommends "$@" >/dev/null
}

# Prints the first python3 that is new enough: the distribution's, which is built with profile-guided optimisation (a small
# request costs a tenth less CPU than with one built by hand), then those on PATH.
find_python() {
    local candidate
    while read -r candidate; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done < <(type -P "$distribution_python"; type -aP python3 python3.10 python3.11 python3.12 python3.13 python3.14)
    return 1
}

# FUSE, a compiler and Python's headers: pyfuse3 is built on this machine.
prepare_system() {
    local missing=() version
    command -v fusermount3 >/dev/null || missing+=(fuse3)
    command -v pkg-config >/dev/null && pkg-config --exists fuse3 || missing+=(libfuse3-dev)
    command -v pkg-config >/dev/null || missing+=(pkg-config)
    command -v cc >/dev/null || missing+=(gcc)
    [ -e /usr/include/stdio.h ] || missing+=(libc6-dev)
    find_python >/dev/null || missing+=(python3 python3-dev python3-venv)
    install_packages "${missing[@]}"
    python=$(find_python) || die "Python 3.10 or newer is needed, as python3 on PATH"
    version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
    missing=()
    "$python" -c 'import os, sysconfig, sys
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' || missing+=("$version-dev")
    "$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=("$version-venv")
    install_packages "${missing[@]}"
}

# The programs that the end-to-end tests drive through a mount, as package:program.
prepare_programs() {
    local missing=() pair
    for pair in "$@"; do
        command -v "${pair#*:}" >/dev/null || missing+=("${pair%%:*}")
    done
    install_packages "${missing[@]}"
}

# .venv with s3mount from this checkout and the extras named; installed again when Python or setup.cfg changes.
prepare_venv() {
    local extras=$1 stamp found
    stamp=$({ "$python" -VV && printf '%s\n' "$root" && cat "$root/setup.cfg"; } | sha256sum)
    found=$venv/.installed-$extras
    if [ -e "$found" ] && [ "$(cat "$found")" = "$stamp" ] && "$venv/bin/python" -c '' 2>/dev/null; then
        return
    fi
    say "installing s3mount with $extras into .venv"
    if ! "$venv/bin/python" -c '' 2>/dev/null ||
        [ "$("$venv/bin/python" -VV)" != "$("$python" -VV)" ]; then
        "$python" -m venv --clear "$venv"
    fi
    rm -f "$found"
    "$venv/bin/python" -m pip install -q --disable-pip-version-check -e "${root}[$extras]"
    printf '%s\n' "$stamp" >"$found"
}
