"""Receives two series and answers them; killed after a call if that is asked for.

python inbox_child.py RESULTS [FUNCTION NUMBER]

Killed after the so-manieth call of the function that is named by its whole path; of `os.unlink`
only the files of a series count. What was not received to the end is sent again, as a sender does
that got no answer.
"""

import functools
import os
import pathlib
import signal
import sys
from pkgutil import resolve_name

from dicom_series import open_answers, receive, series

from jaxcovid.listening.inbox import Inbox


def kill_after(name, number):
    holder, _, attribute = name.rpartition(".")
    owner = resolve_name(holder)
    function, calls = getattr(owner, attribute), []

    @functools.wraps(function)
    def counted(*arguments, **options):
        result = function(*arguments, **options)
        if attribute != "unlink" or str(arguments[0]).endswith(".dcm"):
            calls.append(1)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, attribute, counted)


def main(results, function="", number="0"):
    results = pathlib.Path(results)
    files = [*series("a"), *series("b", 2)]
    received = (results / "received").exists()
    if function:
        kill_after(function, int(number))
    inbox = Inbox(results, open_answers(results), quiet_s=0)
    if not received:
        receive(inbox, *files)
        (results / "received").touch()
    while inbox.waiting:
        inbox.screen_due()


if __name__ == "__main__":
    main(*sys.argv[1:])
