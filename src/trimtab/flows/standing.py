"""An engine that stands before another one and answers two of its calls in a way of its own."""

from abc import ABC, abstractmethod

from trimtab.inference import Capabilities, EmbedRequest, Engine, Vector, VersionFiles


class Standing(ABC):
    """Hands on what neither generates nor scores."""

    @property
    @abstractmethod
    def behind(self) -> Engine:
        """The engine that it stands before, at this moment."""

    async def capabilities(self) -> Capabilities:
        return await self.behind.capabilities()

    async def load(self, files: VersionFiles) -> None:
        await self.behind.load(files)

    async def unload(self, version: str) -> None:
        await self.behind.unload(version)

    async def embed(self, request: EmbedRequest) -> list[Vector]:
        return await self.behind.embed(request)
