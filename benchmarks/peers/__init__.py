"""What the stream worker is compared with; each file is a process of its own."""
