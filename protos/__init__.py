"""The agents' door: the protocol's messages (`federation_pb2`), its service, and the files that travel over it.

`federation_pb2*` are generated from `federation.proto` by `python -m protos.generate`; nobody edits them.
"""

# Both ends set these; gRPC's own defaults differ between directions.
CHUNK_BYTES = 2**20  # of a file, in one message of a stream; at most
PIECE_BYTES = 2**16  # of a file, in one message of a download, at first and on a slow line
# A ping waits behind whatever the buffers of a line hold. Bytes that arrive meanwhile count as a sign of life for the
# first of these, which is also the time after which TCP gives up a peer that acknowledges nothing.
KEEPALIVE_TIMEOUT_MS = 60_000
PING_TIMEOUT_MS = 600_000
MAX_REQUEST_BYTES = 4 * 2**20
MAX_RESPONSE_BYTES = 16 * 2**20  # a task holds a job's document and its plan

INSTANCE_KEY = "agent-instance"  # of a call's metadata: which agent calls
WAITS = "waits: "  # what begins the words of an agent that cannot go on with a task for now
STAGES = ("download", "evaluate", "train", "upload")  # what an agent says that it does with a task
