"""Metrics and probes over HTTP, served by a thread of its own: it answers while the loop is stuck.

`endpoint` is what the daemon holds: the port, taken before anything is mounted. `server` is the thread: connections,
their limits and deadlines. `answers` says what each path is answered, `probes` when a mount is healthy and ready,
`families` how figures are written for Prometheus (the one place that imports prometheus-client, and only if somebody
wants metrics). `snapshots` is the bridge: the figures of `s3mount status`, gathered in the loop. Imported by `daemon`
only. Nothing here asks the store.
"""
