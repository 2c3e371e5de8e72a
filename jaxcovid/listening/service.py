"""The service behind `jaxcovid.listen`: takes, screens and sends until it is stopped."""

import contextlib
import dataclasses
import threading
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from absl import logging

from jaxcovid.listening import listener
from jaxcovid.listening.answers import Answers
from jaxcovid.listening.guarded_reading import guard
from jaxcovid.listening.inbox import Inbox, InboxLimits
from jaxcovid.listening.screener import Screener
from jaxcovid.listening.sender import Peer, Sender
from jaxcovid.listening.watched_folder import WatchedFolder
from jaxcovid.serving.decoding_pool import DecoderPool
from jaxcovid.serving.limits import Limits
from jaxcovid.workdir.lock import lock
from jaxcovid.workdir.run import WorkdirError

_POLL_S = 0.5
_TRIES, _PAUSE_S = 3, 5  # to send, before a program that works once ends


@dataclass(frozen=True)
class Service:
    """What a service does.

    Attributes:
      results: folder of all that it writes.
      address: where it listens; None does not.
      peer: node that gets the answers; None sends none.
      watch: folder of somebody else that is screened too; None watches none.
      quiet_s: how long nothing of a series has come when it is complete, seconds.
      limits: of the inbox.
      keep_sources: keep received files that were answered.
    """

    results: Path
    address: listener.Address | None = None
    peer: Peer | None = None
    watch: Path | None = None
    quiet_s: float = 5
    limits: InboxLimits = field(default_factory=InboxLimits)
    keep_sources: bool = False


def run(screener: Screener, service: Service) -> None:
    """Serves until the process is stopped; without an address until all is answered and sent.

    Raises:
      ValueError: an option that does not fit, a library that is missing, results that belong to
        another program; without an address, answers that could not be sent and watched files
        that cannot be read.
      OSError: a folder or a port that cannot be used.
    """
    screener.check()
    warnings.simplefilter("ignore")  # those of libraries show what files say of patients
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock(service.results))
        except WorkdirError as error:
            raise ValueError(
                f"{service.results} is in use by another jaxcovid.listen; give another --results"
            ) from error
        pool = DecoderPool(Limits(decoders=1))
        stack.callback(pool.close)
        screener = dataclasses.replace(screener, network=guard(screener.network, pool))
        answers = Answers(service.results, screener, send=service.peer is not None)
        inbox = Inbox(
            service.results,
            answers,
            quiet_s=service.quiet_s,
            limits=service.limits,
            keep_sources=service.keep_sources,
        )
        watched = None
        if service.watch:
            watched = WatchedFolder(
                service.watch, service.results, answers, quiet_s=service.quiet_s
            )
        sender = None
        name = service.address.ae_title if service.address else "JAXCOVID"
        if service.peer:
            sender = Sender(service.results, service.peer, ae_title=name)
        if service.address is None:
            _work_once(inbox, watched, sender)
            return
        port = stack.enter_context(
            listener.listening(inbox, service.address, object_bytes=service.limits.object_bytes)
        )
        logging.info("Listening as %s on %s:%d; research only", name, service.address.host, port)
        if sender:
            _start_sending(sender, answers, stack)
        while True:
            inbox.screen_due()
            if watched:
                watched.screen_due()
            time.sleep(_POLL_S)


def _start_sending(sender: Sender, answers: Answers, stack: contextlib.ExitStack) -> None:
    """Sends in a thread until the stack is left."""
    stop = threading.Event()
    threading.Thread(target=sender.run, args=(answers, stop), daemon=True).start()
    stack.callback(stop.set)


def _work_once(inbox: Inbox, watched: WatchedFolder | None, sender: Sender | None) -> None:
    """Answers what is there, sends it, and returns.

    Raises:
      ValueError: answers could not be sent, or watched files cannot be read.
    """
    while True:
        inbox.screen_due()
        if watched:
            watched.screen_due()
        if not inbox.waiting and not (watched and watched.waiting):
            break
        time.sleep(_POLL_S)
    if sender:
        _send_all(sender)
    if watched and watched.unreadable:
        raise ValueError(
            f"{watched.unreadable} watched files cannot be read; all others are answered"
        )


def _send_all(sender: Sender) -> None:
    for number in range(_TRIES):
        if not (left := sender.send()):
            return
        time.sleep(_PAUSE_S if number + 1 < _TRIES else 0)
    raise ValueError(f"{left} answers could not be sent; they are kept for the next start")
