"""A DICOM node that takes images: C-STORE and C-ECHO, for an `Inbox`.

Standard: DICOM PS3.4, annex A (verification) and annex B (storage); PS3.7, 9.1.1 (C-STORE).
"""

import contextlib
import importlib.util
import logging as python_logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from absl import logging

from jaxcovid.data.dicom.compression import BY_LIBJPEG, PLUGINS
from jaxcovid.listening.inbox import OUT_OF_RESOURCES, Inbox, RefusedError
from jaxcovid.runtime.loopback import is_loopback

_VERIFICATION = "1.2.840.10008.1.1"
# CT, Enhanced CT, Computed Radiography, Digital X-Ray for presentation.
_STORAGE = "1.2.840.10008.5.1.4.1.1."
IMAGES = (_STORAGE + "2", _STORAGE + "2.1", _STORAGE + "1", _STORAGE + "1.1")
_UNCOMPRESSED = ("", ".1", ".1.99", ".2")  # implicit, explicit, deflated, big endian
_JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")
# Explicit first: a node chooses the first of a sender's proposals that it takes.
SYNTAXES = tuple(f"1.2.840.10008.1.2{end}" for end in _UNCOMPRESSED)
SYNTAXES += (*sorted(PLUGINS), *sorted(BY_LIBJPEG), *_JPEG_LS)
_MOST_PDU_BYTES = 2**20  # far more than the node announces
_SLACK_BYTES = 2**24  # of headers around an object
_MOST_ASSOCIATIONS = 8
_TIMEOUT_S = 60
_COMMENT_CHARACTERS = 64  # of a value of type LO


@dataclass(frozen=True)
class Address:
    """Where the node listens, and whom it hears.

    Attributes:
      ae_title: its own name, which callers have to give.
      host: address of an interface, or "localhost".
      port: TCP; 0 takes a free one.
      allowed: AE titles of callers; none is for a loopback address alone, and takes all.
    """

    ae_title: str = "JAXCOVID"
    host: str = "127.0.0.1"
    port: int = 11112
    allowed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for title in (self.ae_title, *self.allowed):
            check_ae_title(title)
        if not 0 <= self.port < 2**16:
            raise ValueError(f"port {self.port} is not in 0 to 65535")
        if not self.allowed and not is_loopback(self.host):
            raise ValueError(
                f"{self.host} is open to other machines: name the AE titles that may send, "
                "--allow=AE1,AE2, or listen on 127.0.0.1"
            )


def check_installed() -> None:
    """Raises a ValueError if the library that speaks DICOM is missing."""
    if importlib.util.find_spec("pynetdicom") is None:
        raise ValueError("listening for DICOM needs pynetdicom: pip install 'jaxcovid[listen]'")


def check_ae_title(title: str) -> None:
    """Raises a ValueError if a text is no AE title: PS3.5, 6.2, 1 to 16 printable characters."""
    if not 1 <= len(title) <= 16 or title != title.strip() or not title.isascii():
        raise ValueError(f"{title!r} is no AE title: give 1 to 16 ASCII characters")
    if not title.isprintable() or "\\" in title:
        raise ValueError(f"{title!r} is no AE title: it holds a character that none may have")


@contextlib.contextmanager
def listening(inbox: Inbox, address: Address, *, object_bytes: int) -> Iterator[int]:
    """Takes objects in threads of its own until the context ends.

    Args:
      inbox: gets the objects.
      address: where it listens.
      object_bytes: of the largest object that the inbox takes. A sender of one that is larger by
        more than some slack is cut off, so that nobody fills the memory.

    Yields:
      The port.

    Raises:
      ValueError: pynetdicom is missing.
      OSError: the port is in use, or the address is not one of this machine.
    """
    check_installed()
    from pynetdicom import AE, evt

    quiet()
    entity = AE(ae_title=address.ae_title)
    entity.require_called_aet = True
    entity.require_calling_aet = list(address.allowed)
    entity.maximum_associations = _MOST_ASSOCIATIONS
    entity.maximum_pdu_size = 2**17
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = _TIMEOUT_S
    entity.add_supported_context(_VERIFICATION)
    for image in IMAGES:
        entity.add_supported_context(image, list(SYNTAXES))
    handlers: list[Any] = [
        (evt.EVT_CONN_OPEN, _bound_memory, [object_bytes + _SLACK_BYTES]),
        (evt.EVT_C_ECHO, _echo),
        (evt.EVT_C_STORE, _store, [inbox]),
        (evt.EVT_REJECTED, _log_rejected),
    ]
    place = (address.host, address.port)
    try:
        server = entity.start_server(place, block=False, evt_handlers=handlers)
    except OSError as error:
        text = f"cannot listen on {address.host}:{address.port} ({error.strerror})"
        raise OSError(error.errno, f"{text}; choose another --port or --host") from error
    assert server is not None  # which it is of a server that blocks
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        entity.shutdown()


def quiet() -> None:
    """Keeps pynetdicom from logging, as it may show what an object says of a patient."""
    python_logging.getLogger("pynetdicom").setLevel(python_logging.CRITICAL + 1)


class _Meter:
    """Reads from a connection, at most so many bytes until the next object is dealt with."""

    def __init__(self, recv: Callable[[int], bytearray], limit: int) -> None:
        self._recv, self._limit, self.count = recv, limit, 0

    def __call__(self, size: int) -> bytearray:
        self.count += size
        if size > _MOST_PDU_BYTES or self.count > self._limit:
            logging.warning("A sender was cut off: it sent more than the largest object allowed.")
            raise OSError("too much was sent")  # pynetdicom closes the connection
        return self._recv(size)


def _bound_memory(event: Any, limit: int) -> None:
    """Bounds what a connection may send: pynetdicom holds all of an object, of any size."""
    connection = event.assoc.dul.socket
    connection.recv = _Meter(connection.recv, limit)


def _dealt_with(event: Any) -> None:
    """Counts anew, unless the sender did not wait for the answer."""
    if event.assoc.dimse.msg_queue.empty():
        event.assoc.dul.socket.recv.count = 0


def _echo(event: Any) -> int:
    _dealt_with(event)
    return 0x0000


def _store(event: Any, inbox: Inbox) -> Any:
    """Gives an object to the inbox; returns the status."""
    from pydicom.dataset import Dataset

    status = Dataset()
    status.Status = 0x0000
    request = event.request
    try:
        inbox.receive(
            event.encoded_dataset(),
            str(request.AffectedSOPClassUID),
            str(request.AffectedSOPInstanceUID),
        )
    except RefusedError as refused:
        logging.warning("Refused with 0x%04X: %s", refused.status, refused.reason)
        status.Status, comment = refused.status, str(refused)
        plain = comment.encode("ascii", "replace").decode().replace("\\", "/")
        status.ErrorComment = plain[:_COMMENT_CHARACTERS]
    except Exception as error:  # of whatever kind: the sender keeps the object
        logging.error("An object could not be taken (%s).", type(error).__name__)
        status.Status = OUT_OF_RESOURCES
    _dealt_with(event)
    return status


def _log_rejected(event: Any) -> None:
    requestor = event.assoc.requestor
    logging.warning("Refused a connection of AE %r from %s", requestor.ae_title, requestor.address)


def parse_titles(text: str) -> tuple[str, ...]:
    """The AE titles of an option, as in `--allow=AE1,AE2`.

    Raises:
      ValueError: one of them is none.
    """
    titles: Sequence[str] = [title.strip() for title in text.split(",") if title.strip()]
    for title in titles:
        check_ae_title(title)
    return tuple(titles)
