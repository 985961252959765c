"""Tests of what is decided on plain data."""
