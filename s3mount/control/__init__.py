"""The control socket: what a running mount can be asked, without touching the mount.

The daemon's side is `server` (connections and lines) and `verbs` (what is answered); the side of `s3mount stat` and its
like is `commands` over `client` and `paths`, which import no library. Both read `sockets` (where the socket is) and
`protocol` (one JSON line each way). Imported by `daemon` and `cli` only.
"""
