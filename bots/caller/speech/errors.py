"""What can go wrong with speech."""


class MissingSpeechPackage(ImportError):
    """A package that offline speech needs is not installed."""

    def __init__(self, package: str) -> None:
        super().__init__(
            f"offline speech needs the extra 'offline' ({package} is not installed): "
            "install the runner again with it added",
            name=package,
        )

    def __reduce__(self) -> tuple[type["MissingSpeechPackage"], tuple[str | None]]:
        """Say how to make it again in another process."""
        return type(self), (self.name,)


class SpeechError(RuntimeError):
    """A speech service did not do its work: it reported an error, or nothing came in time."""
