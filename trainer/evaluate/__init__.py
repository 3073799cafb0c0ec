"""Forecasts against the outcome: back-test, losses, baselines, significance, report."""
