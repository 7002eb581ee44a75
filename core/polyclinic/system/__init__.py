"""Files that survive a power cut, child processes, exit codes."""
