"""What the local page accepts: bounds of size, number, time and memory."""

import dataclasses

MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Limits:
    """Bounds of what strangers may send; whatever is beyond them is refused with the number.

    Attributes:
      upload_bytes: of one file.
      session_bytes: of what a session keeps, uploads and decoded slices together.
      total_bytes: of what all sessions keep.
      session_files: files of a session, those inside zip files among them.
      sessions: open at once.
      volume_slices: of one volume.
      decode_s: seconds to decode one file.
      memory_bytes: address space of a process that decodes.
      decoders: such processes.
      idle_s: seconds without any request after which a session is closed.
    """

    upload_bytes: int = 512 * MIB
    session_bytes: int = 2048 * MIB
    total_bytes: int = 8192 * MIB
    session_files: int = 2000
    sessions: int = 200
    volume_slices: int = 2000
    decode_s: float = 60.0
    memory_bytes: int = 4096 * MIB
    decoders: int = 2
    idle_s: float = 90.0


class LimitError(Exception):
    """More than is accepted; the message has the numbers."""
