"""Reference agents to call: real Pipecat bots that need no network and no key."""
