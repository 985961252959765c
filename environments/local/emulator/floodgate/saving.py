"""What a kill leaves: what the emulator holds is saved as it changes, so that a kill loses a second of it and no stack.

What a stack has become is saved before anybody is told of it. The rest is saved every second.
"""

import hashlib
import json
import logging
import os
import pathlib
import threading
import time

from ministack.core import persistence
from ministack.services import cloudformation, cloudwatch, lambda_svc
from ministack.services.cloudformation import changesets, handlers, stacks

logger = logging.getLogger(__name__)

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
        state = STATES.get(name, get_state)()
        if state is not None:
            try:
                text = as_json(name, state)
            except TypeError as error:
                # Of one service alone: the others are saved.
                logger.error("what %s holds cannot be saved: %s", name, error)
                continue
            mark = mark or hashlib.sha256(text).digest()
            if saved.get(name) != mark:
                changed[name] = (text, mark)
    if is_quiet():
        for name, (text, mark) in changed.items():
            write(pathlib.Path(persistence.STATE_DIR, f"{name}.json"), text)
            saved[name] = mark


def stacks_as_they_are():
    """What `get_state` copies. A stack that changes meanwhile ends the reading (`RuntimeError`), as it does the copy's."""
    return {key: store() for store, key in cloudformation._PERSISTED_STORES}


# Services whose state is read where it is, for a copy takes longer than the rest.
STATES = {"cloudformation": stacks_as_they_are}


def as_json(name, state):
    """What the emulator would save. At once: only then is it the encoder in C that works."""
    whole = {"__ministack_format__": persistence._state_format_version(name), "payload": state}
    return json.dumps(whole, default=persistence._json_default).encode()


def write(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    written = file.with_suffix(".tmp")
    written.write_bytes(content)
    os.replace(written, file)


def save_code_by_its_digest():
    """A function's code is saved under its SHA-256, which its configuration has: it is not read through for that."""
    externalize = lambda_svc._externalize_code_zip

    def externalize_by_digest(function, referenced):
        code, sha256 = function.get("code_zip"), lambda_svc._b64_sha_to_hex(function["config"].get("CodeSha256", ""))
        if isinstance(code, bytes) and sha256:
            file = pathlib.Path(lambda_svc.CODE_BLOB_DIR, f"{sha256}.zip")
            if not file.exists():
                write(file, code)
            function["code_zip"] = {lambda_svc._BLOB_REF_KEY: sha256}
            referenced.add(sha256)
        else:
            externalize(function, referenced)

    lambda_svc._externalize_code_zip = externalize_by_digest


def save(app):
    try:
        save_when_quiet(app._build_persistence_save_dict())
    except RuntimeError:
        pass  # Something changed while it was read; the next round reads it again.
    except OSError as error:
        logger.error("what the emulator holds cannot be saved, a kill would lose it: %s", error)


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
    save_code_by_its_digest()
    save_ends_of_stacks(app)
    load = app._load_persisted_state

    def load_then_keep_saving():
        load()
        threading.Thread(target=keep_saving, args=(app,), daemon=True).start()

    app._load_persisted_state = load_then_keep_saving
