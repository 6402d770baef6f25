"""Runs that metering charges an empty account for and our own books lack: they are stopped on metering's word.

An event can be missing here and not there: refused, set aside, or settled in another order. Whoever is charged for a
run, and can't pay, is to be stopped, whatever our own books say.
"""

from collections.abc import Sequence

from services.enforcement import metrics
from services.enforcement.app.enforce import Enforce
from services.enforcement.clients.metering import ChargedRun, MeteringClient
from services.enforcement.store.accounts import load_exhausted
from services.enforcement.store.resources import load_found
from services.enforcement.store.stops import load_requests
from shared.clock import SECOND_US
from shared.db import transaction
from shared.ids import shard_of
from shared.log import get_logger

logger = get_logger(__name__)

KIND = "charged-run"
# An account that fell to zero just now is stopped by what our own books have; this looks for what they lack.
SETTLED_SECONDS = 30
# So many accounts are asked for at a time; metering takes up to a hundred.
ASKED_TOGETHER = 100


class ChargedRuns:
    """Compares the runs that metering charges empty accounts for with the stops that are asked for."""

    def __init__(self, enforce: Enforce, metering: MeteringClient) -> None:
        self._enforce = enforce
        self._metering = metering

    async def compare(self) -> int:
        """Ask for the stop of every run that is missing; return 0.

        Raises OutOfReachError; the next pass begins again.
        """
        settled_us = self._enforce.clock.now_us() - SETTLED_SECONDS * SECOND_US
        async with transaction(self._enforce.pool) as connection:
            keys = await load_exhausted(connection, settled_us)
        # Metering looks through whole shards: accounts of one shard are asked for together.
        keys.sort(key=lambda key: (shard_of(key.region, key.tenant_id, self._enforce.settings.shards), key))
        for first in range(0, len(keys), ASKED_TOGETHER):
            runs = await self._metering.list_running(keys[first : first + ASKED_TOGETHER])
            await self._enforce.isolation.apply(KIND, runs, _name, self._demand)
        return 0

    async def _demand(self, runs: Sequence[ChargedRun]) -> int:
        async with self._enforce.unit() as (connection, unit):
            scene = await unit.begin(sorted({run.key for run in runs}))
            ids = sorted({(run.key.region, run.resource_id) for run in runs})
            scene.add_found(await load_found(connection, ids))
            scene.add_requests(await load_requests(connection, ids))
            for run in runs:
                scene.demand_stop(*run)
            scene.decide_stops()
            await unit.send_first_stops(scene)
            await unit.save(scene)
        missed = [request for request in scene.opened if request.metering_only]
        metrics.RUNS_MISSED.inc(len(missed))
        for request in missed:
            logger.error(
                "stops.run_missed",
                region=request.key.region,
                tenant_id=request.key.tenant_id,
                resource_id=request.resource_id,
            )
        return len(missed)


def _name(run: ChargedRun) -> str:
    return f"{run.key.region}/{run.resource_id}"
