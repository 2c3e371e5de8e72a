"""Options of XLA under which the programs of this package run fastest."""

_CPU_FUSIONS = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
_OPTIONS = {
    # XLA hands operations to the YNNPACK library; its products and reductions are faster than XLA's
    # own, its 3x3 convolutions half as fast.
    "cpu": {"xla_cpu_experimental_ynn_fusion_type": _CPU_FUSIONS},
    # Nothing: all-reduces run beside kernels, and the scheduler that hides them is on.
    "gpu": {},
    # All-reduces run beside convolutions, fused with them; by default only gathers do.
    "tpu": dict.fromkeys(
        (
            "xla_enable_async_all_reduce",
            "xla_tpu_enable_async_collective_fusion",
            "xla_tpu_enable_async_collective_fusion_fuse_all_reduce",
            "xla_tpu_enable_async_collective_fusion_multiple_steps",
            "xla_tpu_overlap_compute_collective_tc",
        ),
        "true",
    ),
}


def compiler_options(platform: str) -> dict[str, str]:
    """Options for the devices of a platform: `cpu`, `gpu` or `tpu`."""
    return _OPTIONS[platform]
