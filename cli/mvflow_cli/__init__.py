"""The `mvflow` command: glue between a terminal and the library. One command per file."""
