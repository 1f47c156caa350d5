"""blackstart: disaster drills for AI model services."""

__version__ = "0.1.0"
