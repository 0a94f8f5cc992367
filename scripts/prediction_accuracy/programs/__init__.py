"""The programs that others measured, written again; each has `run(**parameters)` and runs in a child process."""
