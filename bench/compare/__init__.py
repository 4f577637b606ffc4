"""s3mount beside other file systems on S3, and beside boto3 without a file system: the same workloads, cold, in turns.

    systems    what is compared: command lines, from `systems.toml` and from files named on the command line
    distance   the store 5, 20 or 50 ms away, with a rate per connection
    bucket     what the workloads find in the bucket, and what the server counts of requests
    workloads  what is done, by `worker` through a mount, by `limit` with boto3, by ordinary programs
    stage      one turn of one workload on one system, and what is measured meanwhile
    ours       what only s3mount is asked: its caches, and how long its event loop is held up (`probe`)
    results    the figures, their medians; `targets` judges them
    report     tables as text and Markdown; `chart` draws; `page` writes both with the machine and the command
    cli        the command, `bench/run`

Each mount, server and reader is a process of its own, ended by its pid, whatever ends the run. Nothing here is
imported by s3mount; of s3mount only `probe` and the constants of sizes are used.
"""
