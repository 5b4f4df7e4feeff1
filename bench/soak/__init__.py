"""Kills and stops processes and erases people under load, and checks that every promise to the clients is kept."""
