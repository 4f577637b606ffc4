"""The bytes of files: blocks read from the store, dirty ranges on their way into it. Knows keys and etags, no names."""
