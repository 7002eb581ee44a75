"""Numbers that both ends of the wire agree on, and gRPC's options at both ends."""

from enum import IntEnum

PROTOCOL = 1  # newest version of the wire that is spoken here
OLDEST = 1  # oldest version of the wire that is still understood here

CHUNK_BYTES = 1 << 20  # of a blob, in one message
INLINE_BYTES = 64 * 1024  # arrays and byte values above travel as blobs
FRAME_BYTES = 4 << 20  # largest frame of a hospital's line
LARGEST_BYTES = FRAME_BYTES + 64 * 1024  # largest message of any call: a frame and its wrapping

HEARTBEAT_MS = 10_000  # either side sends one so often
SILENT_BEATS = 3  # intervals without any frame, after which the line is cut
HANDSHAKE_S = 20.0  # limit of each step before the welcome: a slow link needs seconds

SESSION_HEADER = "polyclinic-session-bin"  # metadata of calls about blobs: Welcome.session

# The coordinator asks again when a fault's reason starts with this.
WORKER_ENDED = "the hospital's worker ended"


class FaultCode(IntEnum):
    """Kinds of faults that answer a piece of work."""

    UNKNOWN = 0
    APP_FAILED = 1  # the hospital's code raised an error; the reason says as much as may leave
    WORKER_ENDED = 2  # the hospital's worker ended; the reason starts with `WORKER_ENDED`
    EXPIRED = 3  # nobody answered within the message's time
    REPLY_INVALID = 4  # the coordinator could not read the reply
    WORK_INVALID = 5  # the hospital could not read the work


_COMMON: list[tuple[str, int]] = [
    ("grpc.max_send_message_length", LARGEST_BYTES),
    ("grpc.max_receive_message_length", LARGEST_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 60_000),
    ("grpc.http2.max_pings_without_data", 0),
]
SERVER_OPTIONS: list[tuple[str, int]] = [
    *_COMMON,
    ("grpc.max_concurrent_streams", 100),
    ("grpc.max_metadata_size", 8 * 1024),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.so_reuseport", 0),
]
CLIENT_OPTIONS: list[tuple[str, int]] = [
    *_COMMON,
    ("grpc.enable_http_proxy", 0),  # the client goes through a proxy itself, never by chance
    ("grpc.use_local_subchannel_pool", 1),  # two lines of one process share no connection
    ("grpc.enable_retries", 0),
]
