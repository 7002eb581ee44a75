from polyclinic.fleet.wire import fleet_pb2 as _fleet_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Nothing(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RunName(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: str
    def __init__(self, run: _Optional[str] = ...) -> None: ...

class AttachRequest(_message.Message):
    __slots__ = ("run", "ledgers", "sites")
    RUN_FIELD_NUMBER: _ClassVar[int]
    LEDGERS_FIELD_NUMBER: _ClassVar[int]
    SITES_FIELD_NUMBER: _ClassVar[int]
    run: str
    ledgers: _containers.RepeatedScalarFieldContainer[str]
    sites: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, run: _Optional[str] = ..., ledgers: _Optional[_Iterable[str]] = ..., sites: _Optional[_Iterable[str]] = ...) -> None: ...

class News(_message.Message):
    __slots__ = ("address", "notes")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    address: str
    notes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, address: _Optional[str] = ..., notes: _Optional[_Iterable[str]] = ...) -> None: ...

class Problem(_message.Message):
    __slots__ = ("run", "reason", "exit_code")
    RUN_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    run: str
    reason: str
    exit_code: int
    def __init__(self, run: _Optional[str] = ..., reason: _Optional[str] = ..., exit_code: _Optional[int] = ...) -> None: ...

class NodeList(_message.Message):
    __slots__ = ("nodes",)
    NODES_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[Node]
    def __init__(self, nodes: _Optional[_Iterable[_Union[Node, _Mapping]]] = ...) -> None: ...

class Node(_message.Message):
    __slots__ = ("number", "online_until", "activated", "name")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ONLINE_UNTIL_FIELD_NUMBER: _ClassVar[int]
    ACTIVATED_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    number: int
    online_until: float
    activated: str
    name: str
    def __init__(self, number: _Optional[int] = ..., online_until: _Optional[float] = ..., activated: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class Question(_message.Message):
    __slots__ = ("run", "envelope")
    RUN_FIELD_NUMBER: _ClassVar[int]
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    run: str
    envelope: _fleet_pb2.Envelope
    def __init__(self, run: _Optional[str] = ..., envelope: _Optional[_Union[_fleet_pb2.Envelope, _Mapping]] = ...) -> None: ...

class Sent(_message.Message):
    __slots__ = ("known",)
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    known: _containers.RepeatedScalarFieldContainer[bool]
    def __init__(self, known: _Optional[_Iterable[bool]] = ...) -> None: ...

class Identifiers(_message.Message):
    __slots__ = ("run", "identifiers")
    RUN_FIELD_NUMBER: _ClassVar[int]
    IDENTIFIERS_FIELD_NUMBER: _ClassVar[int]
    run: str
    identifiers: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, run: _Optional[str] = ..., identifiers: _Optional[_Iterable[str]] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("envelope", "site")
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    SITE_FIELD_NUMBER: _ClassVar[int]
    envelope: _fleet_pb2.Envelope
    site: str
    def __init__(self, envelope: _Optional[_Union[_fleet_pb2.Envelope, _Mapping]] = ..., site: _Optional[str] = ...) -> None: ...

class StartRequest(_message.Message):
    __slots__ = ("settings", "name", "folder")
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    settings: _containers.RepeatedScalarFieldContainer[str]
    name: str
    folder: str
    def __init__(self, settings: _Optional[_Iterable[str]] = ..., name: _Optional[str] = ..., folder: _Optional[str] = ...) -> None: ...

class Snapshots(_message.Message):
    __slots__ = ("snapshots",)
    SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    snapshots: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, snapshots: _Optional[_Iterable[str]] = ...) -> None: ...
