"""Measures speed, CPU and memory, each beside a bare loop that does the same work without the service."""
