"""The AWS API emulator with what it lacks of the platform. `--resource-types` prints which CloudFormation types are
exercised and which only recorded, as JSON.
"""

import json
import os
import sys

from floodgate import (
    cache, cluster, database, evaluation, event_source_mappings, identity, kafka, kinesis_shards, measures, network,
    saving, waiting,
)
from ministack.core import persistence
from ministack.services.cloudformation import provisioners

PARTS = (network, identity, cluster, kafka, database, cache)


def register():
    for part in PARTS:
        provisioners._RESOURCE_HANDLERS.update(part.RECORDED)
        provisioners._RESOURCE_HANDLERS.update(part.EXERCISED)
    network.install()
    evaluation.install()
    event_source_mappings.install()
    kinesis_shards.install()
    measures.install()
    waiting.install(cache.WAITING | database.WAITING | kafka.WAITING)


def resource_types():
    recorded = {name for part in PARTS for name in (*part.RECORDED, *part.RECORDED_BY_EMULATOR)}
    return {
        name: "recorded" if name in recorded else "exercised" for name in sorted(provisioners._RESOURCE_HANDLERS)
    }


if __name__ == "__main__":
    register()
    if "--resource-types" in sys.argv:
        print(json.dumps(resource_types()))
        sys.exit(0)
    # What the emulator saves holds secrets.
    os.umask(0o077)
    from ministack import app

    if persistence.PERSIST_STATE:
        saving.install(app)
    load = app._load_persisted_state

    def load_then_evaluate():
        # A saved alarm has its state and its metrics then.
        load()
        measures.start()
        evaluation.start()

    app._load_persisted_state = load_then_evaluate
    sys.argv = sys.argv[:1]
    app.main()
