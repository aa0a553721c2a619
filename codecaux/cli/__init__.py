"""The command line: parse, run, render. Nothing here is imported by the library."""
