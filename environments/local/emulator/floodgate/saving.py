"""What a kill leaves: what the emulator holds is saved as it changes, so that a kill loses a second of it and no stack.

What a stack has become is saved before anybody is told of it. The rest is saved every second.
"""

import hashlib
import json
import threading
import time

from ministack.core import persistence
from ministack.services import cloudformation, cloudwatch
from ministack.services.cloudformation import changesets, handlers, stacks

SAVE_EVERY_SECONDS = 1.0
METRICS_EVERY_SECONDS = 15


def is_quiet():
    """Whether no stack is being changed: one that was saved in between would be in between for ever."""
    return not any(
        stack["StackStatus"].endswith("_IN_PROGRESS") and stack["StackStatus"] != "REVIEW_IN_PROGRESS"
        for stack in list(cloudformation._stacks._data.values())
    )


def mark_of_alarms():
    """Changes with everything but the metrics, which change every second; those are as old as the slot at most."""
    stores = (
        cloudwatch._alarms, cloudwatch._composite_alarms, cloudwatch._alarm_history, cloudwatch._dashboards,
        cloudwatch._resource_tags,
    )
    text = repr([store._data for store in stores]) + str(int(time.time() // METRICS_EVERY_SECONDS))
    return hashlib.sha256(text.encode()).digest()


# Services whose state is too much to look through every second.
MARKS = {"cloudwatch": mark_of_alarms}


def save_when_quiet(services, saved={}, one_at_a_time=threading.Lock()):
    """Saves the services' state that has changed since it was last saved. `saved`: digests by service."""
    with one_at_a_time:
        if is_quiet():
            save_changed(services, saved)


def save_changed(services, saved):
    changed = {}
    for name, get_state in services.items():
        mark = MARKS[name]() if name in MARKS else None
        if mark is not None and saved.get(name) == mark:
            continue
        state = get_state()
        if state is not None:
            text = "" if mark is not None else json.dumps(state, default=persistence._json_default)
            mark = mark or hashlib.sha256(text.encode()).digest()
            if saved.get(name) != mark:
                changed[name] = (state, mark)
    if is_quiet():
        for name, (state, mark) in changed.items():
            persistence.save_state(name, state)
            saved[name] = mark


def save(app):
    try:
        save_when_quiet(app._build_persistence_save_dict())
    except RuntimeError:
        pass  # Something changed while it was read; the next round reads it again.


def keep_saving(app):
    while True:
        began = time.monotonic()
        save(app)
        # Where there is much to save it is done less often: a twentieth of the time at most.
        time.sleep(max(SAVE_EVERY_SECONDS, 20 * (time.monotonic() - began)))


def save_ends_of_stacks(app):
    """A stack's work ends with its last status; no request is answered between that and the saving."""
    create_task = stacks._create_stack_task_in_region

    async def work_then_save(work):
        try:
            await work
        finally:
            save(app)

    def create_task_that_saves(work, *arguments, **named):
        create_task(work_then_save(work), *arguments, **named)

    for module in (stacks, changesets, handlers):
        module._create_stack_task_in_region = create_task_that_saves


def install(app):
    """Saves while the emulator runs, also at its end: a stack that is being changed then is left as it was before."""
    app.save_all = save_when_quiet
    save_ends_of_stacks(app)
    load = app._load_persisted_state

    def load_then_keep_saving():
        load()
        threading.Thread(target=keep_saving, args=(app,), daemon=True).start()

    app._load_persisted_state = load_then_keep_saving
