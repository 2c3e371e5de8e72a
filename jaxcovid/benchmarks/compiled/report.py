"""What a program would cost on a target, from its compiled form."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxcovid.benchmarks.compiled import forecast
from jaxcovid.benchmarks.compiled.hlo import parse_module
from jaxcovid.benchmarks.compiled.targets import Chip, Target, devices_of
from jaxcovid.benchmarks.compiled.traffic import Traffic, measure_traffic
from jaxcovid.benchmarks.contestants.program import Program, compile_timed
from jaxcovid.runtime.sharding import check_batch_size, make_mesh


def compile_for(
    make: Callable[..., Program],
    target: Target,
    *,
    batch: int,
    size: int,
    dtype: str,
    alone: Callable[..., Program] | None = None,
    program_file: Path | None = None,
) -> dict[str, Any]:
    """Compiles a program for a target and says what it costs on each device.

    Args:
      make: (mesh, batch=, size=, dtype=) -> the program.
      target: that it is compiled for.
      batch: images of all devices.
      size: side of an image, px.
      dtype: of the activations.
      alone: makes the program of a single device, where `make` needs several; None is `make`.
      program_file: gets the compiled program, if given.

    Returns:
      Seconds, bytes, counts and images a second, named in docs/performance.md.

    Raises:
      ValueError: the batch does not divide, or see `targets.devices_of`.
    """
    mesh = make_mesh(devices=devices_of(target), slices=target.slices)
    check_batch_size(batch, mesh)
    images, shape = batch // mesh.size, {"size": size, "dtype": dtype}
    compiled, seconds = compile_timed(make(mesh, batch=batch, **shape))
    text = compiled.as_text()
    if program_file:
        program_file.write_text(text)
    traffic = measure_traffic(parse_module(text))
    # Before XLA optimises: of a program for a GPU that is not there it counts nothing.
    of_a_device = (alone or make)(make_mesh(1), batch=images, **shape).whole()
    chip, flops = target.chip, of_a_device.cost_analysis()["flops"]
    bound = forecast.lower_bound(traffic, chip, flops=flops, dtype=dtype)
    of_step = {"compiled": mesh.devices.shape, "bound": bound, "images": images}
    scaling = forecast.scaling(traffic, chip, target.platform, **of_step)
    return {
        "mode": "compile",
        "target": str(target),
        "device": chip.name,
        "devices": mesh.size,
        "slices": target.slices,
        "batch": batch,
        **shape,
        **seconds,
        "flops": flops,
        **_traffic_facts(traffic, mesh.devices.shape),
        **_memory_facts(compiled.memory_analysis(), chip),
        "bound_s": bound,
        "images_per_s_bound": batch / bound,
        # The program of a single chip exchanges nothing.
        "scaling": scaling if mesh.size > 1 else [],
    }


def _traffic_facts(traffic: Traffic, shape: tuple[int, int]) -> dict[str, Any]:
    """Kernels, bytes through device memory and what devices exchange."""
    collectives = traffic.collectives
    overlapped = [c for c in collectives if c.kernels]
    across = [c for c in collectives if c.spans(shape)[0] > 1]
    return {
        "bytes_moved": traffic.bytes_moved,
        "kernels": traffic.launches,
        "by_kind": {
            kind: {"kernels": launches, "bytes": moved}
            for kind, (launches, moved) in traffic.by_kind().items()
        },
        "all_reduces": sum(c.runs for c in collectives if c.kind == "all-reduce"),
        "collectives": sum(c.runs for c in collectives),
        "collective_bytes": sum(c.runs * c.size for c in collectives),
        "overlapped": sum(c.runs for c in overlapped),
        "overlapped_bytes": sum(c.runs * c.size for c in overlapped),
        "across_slices": sum(c.runs for c in across),
        "across_slices_bytes": sum(c.runs * c.size for c in across),
    }


def _memory_facts(memory: Any, chip: Chip) -> dict[str, Any]:
    """Bytes of device memory that a program takes, by XLA's analysis."""
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    device_bytes = memory.argument_size_in_bytes + results + memory.temp_size_in_bytes
    return {
        "temporary_bytes": memory.temp_size_in_bytes,
        "device_bytes": device_bytes,
        "fits": device_bytes <= chip.memory_bytes,
    }
