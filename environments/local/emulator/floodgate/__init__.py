"""What the AWS API emulator lacks of the platform: a module a part of AWS.

A type is *exercised* when something real happens (a topic is made on the broker), or *recorded* when it only answers
its attributes. Each module says which of its types are which.
"""
