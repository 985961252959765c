"""Resources behind which a real part stands: making one takes as long as that part takes.

The emulator works on all stacks in one loop, and a handler that waits keeps all of them waiting, and every other call.
Such a handler runs on a thread of its own, as the emulator runs its custom resources.
"""

from ministack.services.cloudformation import stacks


def install(resource_types):
    of_emulator = stacks._runs_on_worker_thread
    stacks._runs_on_worker_thread = lambda name: name in resource_types or of_emulator(name)
