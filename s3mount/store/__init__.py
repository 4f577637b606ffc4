"""The object store behind one async Protocol (`base.ObjectStore`); the only folder that imports boto3 and pycurl."""
