"""What the computer gives a process, and asks of it: cores, memory, a place among others, and an end."""
