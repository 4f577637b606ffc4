"""Write-back: what is acknowledged is in a journal on this host's disk, and the bucket follows."""
