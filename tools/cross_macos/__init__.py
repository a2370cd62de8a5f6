"""Builds and checks a macOS wheel on Linux."""
