"""Holds before work, one settlement after it, and limits; many requests in one transaction."""
