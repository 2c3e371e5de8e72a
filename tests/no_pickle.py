"""Runs a module as a command, and ends with status 77 if anything is unpickled.

python tests/no_pickle.py jaxcovid.predict --workdir=...
"""

import os
import pickle
import runpy
import sys
import traceback


def refuse(*_, **__):
    traceback.print_stack()
    print("something was unpickled", file=sys.stderr, flush=True)
    os._exit(77)


class Refused(pickle.Unpickler):
    def __init__(self, *_, **__):
        refuse()


def watch(event, _):
    if event == "pickle.find_class":
        refuse()


# What a pickle names is looked up by an event of the interpreter; one that names nothing is met by
# the functions.
sys.addaudithook(watch)
pickle.load = pickle.loads = refuse
pickle.Unpickler = Refused

sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
