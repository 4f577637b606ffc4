"""s3mount presents an S3 bucket as a POSIX directory; README.md is the way in, `daemon` is where its parts meet."""

__version__ = "0.1.0"
