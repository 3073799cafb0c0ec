"""Forecasts over HTTP, by the same path as in the stream."""

from typing import Final

PROCESS: Final = "api"
"""The process's name in its variables, log lines and metrics."""
