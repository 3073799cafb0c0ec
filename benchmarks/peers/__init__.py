"""Contenders of the stream benchmark, each file the program of a process."""
