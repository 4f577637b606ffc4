"""What a bucket looks like as a file system: here and only here."""
