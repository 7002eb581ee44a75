from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Dtype(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DTYPE_UNSPECIFIED: _ClassVar[Dtype]
    UINT8: _ClassVar[Dtype]
    FLOAT16: _ClassVar[Dtype]

class AnswerKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ANSWER_UNSPECIFIED: _ClassVar[AnswerKind]
    LABELS: _ClassVar[AnswerKind]
    PROBABILITIES: _ClassVar[AnswerKind]
DTYPE_UNSPECIFIED: Dtype
UINT8: Dtype
FLOAT16: Dtype
ANSWER_UNSPECIFIED: AnswerKind
LABELS: AnswerKind
PROBABILITIES: AnswerKind

class Empty(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Description(_message.Message):
    __slots__ = ("shape", "dtypes", "answers", "labels", "digest", "limits", "version")
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DTYPES_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    shape: _containers.RepeatedScalarFieldContainer[int]
    dtypes: _containers.RepeatedScalarFieldContainer[Dtype]
    answers: _containers.RepeatedScalarFieldContainer[AnswerKind]
    labels: _containers.RepeatedScalarFieldContainer[str]
    digest: str
    limits: Limits
    version: str
    def __init__(self, shape: _Optional[_Iterable[int]] = ..., dtypes: _Optional[_Iterable[_Union[Dtype, str]]] = ..., answers: _Optional[_Iterable[_Union[AnswerKind, str]]] = ..., labels: _Optional[_Iterable[str]] = ..., digest: _Optional[str] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., version: _Optional[str] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("part_bytes", "volume_bytes", "waiting", "idle_s", "upload_s", "deadline_s")
    PART_BYTES_FIELD_NUMBER: _ClassVar[int]
    VOLUME_BYTES_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    IDLE_S_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_S_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    part_bytes: int
    volume_bytes: int
    waiting: int
    idle_s: float
    upload_s: float
    deadline_s: float
    def __init__(self, part_bytes: _Optional[int] = ..., volume_bytes: _Optional[int] = ..., waiting: _Optional[int] = ..., idle_s: _Optional[float] = ..., upload_s: _Optional[float] = ..., deadline_s: _Optional[float] = ...) -> None: ...

class VolumeHeader(_message.Message):
    __slots__ = ("shape", "dtype", "answer", "request_id")
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    shape: _containers.RepeatedScalarFieldContainer[int]
    dtype: Dtype
    answer: AnswerKind
    request_id: bytes
    def __init__(self, shape: _Optional[_Iterable[int]] = ..., dtype: _Optional[_Union[Dtype, str]] = ..., answer: _Optional[_Union[AnswerKind, str]] = ..., request_id: _Optional[bytes] = ...) -> None: ...

class VolumePart(_message.Message):
    __slots__ = ("header", "data")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    header: VolumeHeader
    data: bytes
    def __init__(self, header: _Optional[_Union[VolumeHeader, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class AnswerHeader(_message.Message):
    __slots__ = ("shape", "answer", "request_id")
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    shape: _containers.RepeatedScalarFieldContainer[int]
    answer: AnswerKind
    request_id: bytes
    def __init__(self, shape: _Optional[_Iterable[int]] = ..., answer: _Optional[_Union[AnswerKind, str]] = ..., request_id: _Optional[bytes] = ...) -> None: ...

class AnswerPart(_message.Message):
    __slots__ = ("header", "data")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    header: AnswerHeader
    data: bytes
    def __init__(self, header: _Optional[_Union[AnswerHeader, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...
