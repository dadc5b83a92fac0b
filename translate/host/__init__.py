"""What a process has of its machine: cores, memory, its place under a launcher, and signals to stop."""
