"""The command line: options, devices, progress."""
