"""Counts the calls of an ASGI app and sends them to Turnpike's ingest door, through a spool on disk."""

from turnpike_asgi.events import Call, Usage
from turnpike_asgi.middleware import TurnpikeMiddleware
from turnpike_asgi.options import ConfigurationError, Options
from turnpike_asgi.recorder import Recorder
from turnpike_asgi.stats import Stats

__all__ = ["Call", "ConfigurationError", "Options", "Recorder", "Stats", "TurnpikeMiddleware", "Usage"]
