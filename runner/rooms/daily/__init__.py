"""A room on Daily, entered with its URL and token through Pipecat's own transport."""
