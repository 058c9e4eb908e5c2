"""A newsroom on Callboard: ``CALLBOARD_ACTORS=newsroom`` serves what is named here."""

from newsroom.actors import content_generation, hotspot_monitor, video_processing
from newsroom.assets import sync_assets
from newsroom.pipelines import newsletter

__all__ = ["content_generation", "hotspot_monitor", "newsletter", "sync_assets", "video_processing"]
