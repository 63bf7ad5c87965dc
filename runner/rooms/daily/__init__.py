"""A room on Daily, entered with its URL and token through Pipecat's own transport."""

from runner.rooms.daily.room import DailyRoom

__all__ = ["DailyRoom"]
