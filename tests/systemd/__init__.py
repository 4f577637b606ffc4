"""A booted systemd, s3mount in it: `scripts/test --systemd`. Nothing here is collected by pytest."""
