"""s3mount in real containers, on a Docker daemon of its own: `scripts/test --containers`, never by default."""
