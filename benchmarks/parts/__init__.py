"""What is measured, a file a part: its rows, the peers that have none and why."""
