"""What is saved is what the emulator would save itself, and what it restores."""

import base64
import hashlib
import json
import os
import pathlib
import tempfile
import unittest
from unittest import mock

from floodgate import saving
from ministack.core import persistence
from ministack.services import cloudformation, lambda_svc

FIRST, SECOND = ("a", "r", "first"), ("a", "r", "second")


def function(code):
    digest = base64.b64encode(hashlib.sha256(code).digest()).decode()
    return {"config": {"FunctionName": "first", "CodeSha256": digest}, "code_zip": code, "versions": {}}


class Saving(unittest.TestCase):
    def setUp(self):
        self.directory = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        blobs = self.directory / "lambda-blobs"
        for module, name, value in (
            (persistence, "PERSIST_STATE", True),
            (persistence, "STATE_DIR", str(self.directory)),
            (lambda_svc, "CODE_BLOB_DIR", str(blobs)),
            (lambda_svc, "_externalize_code_zip", lambda_svc._externalize_code_zip),
        ):
            self.enterContext(mock.patch.object(module, name, value))
        self.enterContext(mock.patch.dict(cloudformation._stacks._data, clear=True))
        self.enterContext(mock.patch.dict(lambda_svc._functions._data, clear=True))

    def test_a_file_is_what_the_emulator_would_write(self):
        cloudformation._stacks._data[FIRST] = {
            "StackStatus": "CREATE_COMPLETE", "_resources": {"Bücket": {"PhysicalResourceId": "b"}}, "bytes": b"\x00",
        }
        saving.save_changed({"cloudformation": cloudformation.get_state}, {})
        ours = json.loads((self.directory / "cloudformation.json").read_text())
        persistence.save_state("cloudformation", cloudformation.get_state())
        self.assertEqual(json.loads((self.directory / "cloudformation.json").read_text()), ours)
        self.assertEqual(os.listdir(self.directory), ["cloudformation.json"])
        restored = persistence.load_state("cloudformation")["stacks"]
        self.assertEqual(restored._data, cloudformation._stacks._data)

    def test_what_has_not_changed_is_not_written_again_and_nothing_is_while_a_stack_changes(self):
        saved, stack = {}, {"StackStatus": "CREATE_COMPLETE"}
        cloudformation._stacks._data[FIRST] = stack
        services = {"cloudformation": cloudformation.get_state}
        file = self.directory / "cloudformation.json"
        saving.save_changed(services, saved)
        file.unlink()
        saving.save_changed(services, saved)
        self.assertFalse(file.exists())
        stack["StackStatus"] = "UPDATE_IN_PROGRESS"
        saving.save_changed(services, saved)
        self.assertFalse(file.exists())
        stack["StackStatus"] = "UPDATE_COMPLETE"
        saving.save_changed(services, saved)
        self.assertTrue(file.exists())

    def test_what_cannot_be_saved_is_told_and_keeps_nothing_else_from_it(self):
        services = {"sqs": lambda: {"queue": object()}, "cloudformation": cloudformation.get_state}
        with self.assertLogs(saving.logger, "ERROR") as told:
            saving.save_changed(services, {})
        self.assertIn("what sqs holds cannot be saved", told.output[0])
        self.assertEqual(os.listdir(self.directory), ["cloudformation.json"])

    def test_code_is_restored_that_was_saved_by_its_digest(self):
        saving.save_code_by_its_digest()
        functions = lambda_svc._functions._data
        functions[FIRST], functions[SECOND] = function(b"one"), function(b"two")
        services = {"lambda": lambda_svc.get_state}
        saving.save_changed(services, {})
        # The second time only that is written which came meanwhile.
        functions[SECOND] = function(b"three")
        with mock.patch.object(saving, "write", wraps=saving.write) as written:
            saving.save_changed(services, {})
        self.assertEqual([content for _, content in (call.args for call in written.mock_calls)][:-1], [b"three"])
        before = dict(functions)
        functions.clear()
        lambda_svc._restore_state(persistence.load_state("lambda"))
        self.assertEqual(functions, before)
        self.assertEqual(len(os.listdir(lambda_svc.CODE_BLOB_DIR)), 2)
