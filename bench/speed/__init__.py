"""Measures speed, CPU and memory, and compares them with a bare loop that does the same work without the service."""
