"""What the editor's panel is told: verdicts of files, this machine's kernels, and what the last models ran on."""
