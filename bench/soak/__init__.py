"""Kills, holds and erases under load, and checks that every promise to the clients is kept."""
