"""Configuration and logging."""

from config.settings import Settings, load

__all__ = ["Settings", "load"]
