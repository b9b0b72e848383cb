"""Suites measure a version on a runtime, reports keep what they saw, the gate decides over pairs.

Knows models only through an `Engine` that is handed in, and promotes nothing: `deploy` does.
"""
