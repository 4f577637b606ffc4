"""What the long tests put on a mount, and the books they keep about it. They know nothing of s3mount's inside."""
