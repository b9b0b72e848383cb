"""`GET /v1/models`: what is deployed, what it costs, and what it can do."""

import asyncio

from fastapi import APIRouter

from trimtab.errors import NotFound, PriceMissing, TrimtabError
from trimtab.gateway.bodies import (
    CapabilitiesBody,
    EncoderBody,
    ModelBody,
    ModelCard,
    ModelList,
    Name,
    PriceBody,
)
from trimtab.gateway.catalogue import Served
from trimtab.gateway.desk import AtDesk, Desk
from trimtab.gateway.encoders import Encoding
from trimtab.gateway.health import READY_S
from trimtab.inference import Capabilities
from trimtab.ledger.money import usd_of_million
from trimtab.ledger.prices import price_of
from trimtab.registry import versions
from trimtab.registry.deployments import Deployment
from trimtab.registry.encoders import Encoder
from trimtab.registry.identity import VersionSpec
from trimtab.store.database import Connection

router = APIRouter()


@router.get("/v1/models")
async def models(desk: AtDesk) -> ModelList:
    """Every deployment and every encoder, by name."""
    deployed = await desk.catalogue.deployed()
    encoding = await desk.encoders.all()
    return ModelList(
        data=[_card(deployment) for deployment, _ in deployed] + list(map(_card_of, encoding)),
        models=await asyncio.gather(*(_model(desk, *found) for found in deployed)),
        encoders=[await _encoder(desk, found.encoder) for found in encoding],
    )


@router.get("/v1/models/{model}")
async def model(model: Name, desk: AtDesk) -> ModelCard:
    """One deployment or encoder, as OpenAI's clients ask for it."""
    for deployment, _ in await desk.catalogue.deployed():
        if deployment.name == model:
            return _card(deployment)
    for encoding in await desk.encoders.all():
        if encoding.encoder.name == model:
            return _card_of(encoding)
    raise NotFound(f"model: no deployment '{model}'", hint="see them all: GET /v1/models")


def _card(deployment: Deployment) -> ModelCard:
    created = deployment.updated_us // 1_000_000
    return ModelCard(id=deployment.name, created=created, owned_by=deployment.project)


def _card_of(encoding: Encoding) -> ModelCard:
    encoder = encoding.encoder
    created = encoder.created_us // 1_000_000
    return ModelCard(id=encoder.name, created=created, owned_by="trimtab")


async def _encoder(desk: Desk, encoder: Encoder) -> EncoderBody:
    return EncoderBody(
        name=encoder.name,
        hash=encoder.hash,
        dimensions=encoder.dimensions,
        context=encoder.max_tokens,
        price=await desk.database.read(lambda connection: _price(connection, encoder.hash)),
    )


async def _model(desk: Desk, deployment: Deployment, served: Served | None) -> ModelBody:
    def rows(connection: Connection) -> tuple[str | None, list[VersionSpec], PriceBody | None]:
        candidate = _candidate(connection, deployment)
        slots = (slot for slot in (deployment.live, candidate) if slot is not None)
        specs = [versions.get(connection, slot).spec for slot in slots]
        return candidate, specs, _price(connection, deployment.live)

    candidate, specs, price = await desk.database.read(rows)
    able = None if served is None else await _capabilities(desk, served)
    return ModelBody(
        name=deployment.name,
        live=deployment.live,
        candidate=candidate,
        base=specs[0].base,
        adapters=[spec.adapter for spec in specs if spec.adapter is not None],
        context=able.context if able else None,
        price=price,
        capabilities=_told(able) if able else None,
    )


def _told(able: Capabilities) -> CapabilitiesBody:
    return CapabilitiesBody(
        lora_mixed=able.methods.get("lora") == "mixed",
        lora_hot="lora" in able.methods,
        prefix_cache=able.prefix_cache,
        priority=able.priority,
        grammar=able.grammar,
        kernels=able.kernels,
        methods=able.methods,
    )


def _candidate(connection: Connection, deployment: Deployment) -> str | None:
    """The idle slot also keeps the version before the live one, and that is no candidate."""
    idle = deployment.idle
    if idle is None or versions.get(connection, idle).state not in ("shadow", "canary"):
        return None
    return idle


def _price(connection: Connection, version: str) -> PriceBody | None:
    try:
        price = price_of(connection, version)
    except PriceMissing:
        return None
    return PriceBody(
        prompt_usd_per_million_tokens=usd_of_million(price.prompt_nano),
        completion_usd_per_million_tokens=usd_of_million(price.completion_nano),
        cached_usd_per_million_tokens=usd_of_million(price.cached),
    )


async def _capabilities(desk: Desk, served: Served) -> Capabilities | None:
    """None where its engine cannot be reached, or not yet: a load goes on behind the answer."""
    try:
        async with asyncio.timeout(READY_S):
            engine = await desk.catalogue.engine(served)
            return await engine.capabilities()
    except (TrimtabError, TimeoutError):
        return None
