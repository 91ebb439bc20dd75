"""Decisions without Ray and without a disk."""
