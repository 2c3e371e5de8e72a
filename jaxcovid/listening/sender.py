"""Sends the DICOM objects of answers to another node by C-STORE; what fails is kept and retried."""

import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import logging

from jaxcovid.listening.answers import FOLDER, UNSENT, Answers
from jaxcovid.listening.listener import check_ae_title, check_installed, quiet

_FIRST_WAIT_S, _LONGEST_WAIT_S = 5.0, 600.0
_TIMEOUT_S = 30
# Secondary Capture Image, Segmentation.
_OBJECTS = ("1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.66.4")
_SYNTAXES = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"]
_STORED = (0x0000, 0xB000, 0xB006, 0xB007)  # with or without a warning


@dataclass(frozen=True)
class Peer:
    """A node that gets objects: its AE title, host and TCP port."""

    ae_title: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Peer":
        """Reads `AE@host:port`; a host with colons stands in brackets.

        Raises:
          ValueError: another form.
        """
        match = re.fullmatch(r"(.+)@(\[[\da-fA-F:]+\]|[^@:\s]+):(\d{1,5})", text)
        if not match or not 0 < int(match[3]) < 2**16:
            raise ValueError(f"{text!r} is no AE@host:port, as in PACS@192.168.1.20:104")
        check_ae_title(match[1])
        return cls(match[1], match[2].strip("[]"), int(match[3]))


class Sender:
    """Sends what is marked as unsent; the mark goes when the other node has all of an answer."""

    def __init__(self, results: Path, peer: Peer, *, ae_title: str) -> None:
        """Prepares to send.

        Args:
          results: the folder of the answers.
          peer: that gets them.
          ae_title: of this node.

        Raises:
          ValueError: pynetdicom is missing.
        """
        check_installed()
        quiet()
        self._folder, self._peer, self._ae_title = results / FOLDER, peer, ae_title

    @property
    def unsent(self) -> list[Path]:
        """Folders of answers that have to be sent."""
        return sorted(path.parent for path in self._folder.glob(f"[!.]*/{UNSENT}"))

    def send(self) -> int:
        """Tries to send all once; returns how many answers are left."""
        folders = self.unsent
        if not folders:
            return 0
        association = self._associate()
        if not association.is_established:
            logging.warning(
                "%s does not take the results of %d series; they are kept and tried again.",
                self._peer.ae_title,
                len(folders),
            )
            return len(folders)
        try:
            return sum(not self._send_answer(association, folder) for folder in folders)
        finally:
            if association.is_established:
                association.release()

    def run(self, answers: Answers, stop: threading.Event) -> None:
        """Sends each new answer until it is stopped, with growing pauses while that fails."""
        wait_s = _FIRST_WAIT_S
        while not stop.is_set():
            answers.news.clear()
            try:
                left = self.send()
            except Exception as error:  # of the network, of whatever kind
                logging.warning("Sending failed (%s).", type(error).__name__)
                left = 1
            if left:
                stop.wait(wait_s)
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
                continue
            wait_s = _FIRST_WAIT_S
            while not stop.is_set() and not answers.news.wait(0.5):
                pass

    def _associate(self) -> Any:
        from pynetdicom import AE

        entity = AE(ae_title=self._ae_title)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = _TIMEOUT_S
        entity.connection_timeout = _TIMEOUT_S
        for kind in _OBJECTS:
            entity.add_requested_context(kind, _SYNTAXES)
        return entity.associate(self._peer.host, self._peer.port, ae_title=self._peer.ae_title)

    def _send_answer(self, association: Any, folder: Path) -> bool:
        """Sends the objects of an answer; True if the other node has all."""
        for path in sorted(folder.glob("*.dcm")):
            if not association.is_established:
                return False
            try:
                status = association.send_c_store(path)
            except (ValueError, RuntimeError) as error:  # a kind that it does not take, or cut off
                logging.warning(
                    "answers/%s: %s is not taken (%s); it is kept.",
                    folder.name,
                    path.name,
                    type(error).__name__,
                )
                return False
            if (code := status.get("Status")) not in _STORED:
                said = "nothing" if code is None else f"0x{code:04X}"
                logging.warning(
                    "answers/%s: %s answers %s to %s; it is kept.",
                    folder.name,
                    self._peer.ae_title,
                    said,
                    path.name,
                )
                return False
        (folder / UNSENT).unlink(missing_ok=True)
        logging.info("answers/%s was sent to %s.", folder.name, self._peer.ae_title)
        return True
