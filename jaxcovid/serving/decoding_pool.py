"""The processes that decode: replaced when they crash, run out of memory or take too long."""

import asyncio
import concurrent.futures
import multiprocessing
from collections.abc import Callable
from typing import Any

from pebble import ProcessExpired, ProcessPool

from jaxcovid.data.image_error import ImageError
from jaxcovid.serving import decoding
from jaxcovid.serving.limits import Limits

_TASKS = 500  # of a process, after which a fresh one takes its place: what leaks does not add up


class DecoderPool:
    """Decodes the files of strangers in processes of their own."""

    def __init__(self, limits: Limits) -> None:
        """Starts the processes when the first file comes.

        Args:
          limits: of time and memory.
        """
        self._limits = limits
        self._pool = ProcessPool(
            max_workers=limits.decoders,
            max_tasks=_TASKS,
            initializer=decoding.limit_process,
            initargs=(limits,),
            context=multiprocessing.get_context("spawn"),
        )

    async def run(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """What a function of `decoding` returns.

        Raises:
          ImageError: the file cannot be used: that is what the function says, or it took too much
            time or memory.
        """
        future = self._pool.schedule(
            function, args=arguments, kwargs=options, timeout=self._limits.decode_s
        )
        try:
            return await asyncio.wrap_future(future)
        except ImageError:
            raise
        except concurrent.futures.TimeoutError as error:
            raise ImageError(
                f"it took more than {self._limits.decode_s:g} seconds to decode"
            ) from error
        except (ProcessExpired, MemoryError) as error:
            raise ImageError(
                "decoding it failed, or needed more than "
                f"{self._limits.memory_bytes // 2**20:,} MiB of memory"
            ) from error
        except Exception as error:  # a file that a library does not survive stops nobody
            raise ImageError(f"decoding it failed ({type(error).__name__})") from error

    def close(self) -> None:
        """Ends the processes."""
        self._pool.stop()
        self._pool.join()
